"""revoker: log a user out once, and every API node refuses the token. The names live in the modules."""

__version__ = "0.1.0"
