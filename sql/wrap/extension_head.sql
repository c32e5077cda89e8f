\echo Use "CREATE EXTENSION pgq" to load this file. \quit
