\echo Use "ALTER EXTENSION pgq UPDATE TO '@TO@'" to load this file. \quit
