"""Install, upgrade and remove the SQL of pgq. Applications use the command ``pgq``; the rest is private."""
