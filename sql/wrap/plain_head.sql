-- One transaction: all or nothing.
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
