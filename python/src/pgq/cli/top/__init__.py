"""The command ``pgq top``: what goes on in the queues, live or as text."""
