"""The pages, one module each: what is read, and which template shows it."""
