"""What a worker needs as a process: signals, child processes, logs, and messages to the service manager. Private."""
