"""The tests of the app for Django, as Django runs them."""
