"""The HTTP door: logout for users, revocations for admins, probes and metrics. `revoker.service.app` makes it."""
