"""Install, upgrade and remove the SQL of pgq. Applications use what ``pgq`` exports; the rest is private."""
