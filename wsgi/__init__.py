"""The endpoint that stations upload to: a plain WSGI callable."""
