"""The documentation: its contents, the pages that are generated, and the settings of the site."""
