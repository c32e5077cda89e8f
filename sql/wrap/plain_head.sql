-- One transaction: all of it or nothing.
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
