"""What the endpoint and the writer share: configuration, event types and the spool."""

__version__ = '0.1.0'
