# One image for the service, the nodes, and the one-shot topic job: they differ in their command.
FROM python:3.12-slim

RUN useradd --create-home --uid 10001 revoker
WORKDIR /app

# The dependencies first: they change more rarely than the code.
COPY deploy/requirements.lock deploy/requirements.lock
RUN pip install --no-cache-dir --no-deps --require-hashes -r deploy/requirements.lock

COPY pyproject.toml README.md LICENSE ./
COPY revoker revoker
COPY consumers consumers
RUN pip install --no-cache-dir --no-deps --no-build-isolation .

# glibc raises this by itself after the first large block is freed, and then keeps up to 64 MiB of what a burst took.
ENV MALLOC_TRIM_THRESHOLD_=131072

USER revoker
EXPOSE 8080
ENTRYPOINT ["revoker"]
CMD ["--help"]
