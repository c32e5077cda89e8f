"""pgq itself, and the views that Django reads."""

from django.db import migrations, models

from pgq.django.schema import InstallPgq


class Migration(migrations.Migration):
    """The installation is a transaction of its own."""

    atomic = False
    initial = True
    dependencies: list[tuple[str, str]] = []

    operations = [
        InstallPgq("0.3.0"),
        migrations.CreateModel(
            name="Job",
            fields=[
                ("id", models.BigIntegerField(primary_key=True, serialize=False)),
                ("state", models.TextField()),
                ("queue", models.TextField()),
                ("kind", models.TextField()),
                ("args", models.JSONField(null=True)),
                ("priority", models.IntegerField()),
                ("ripe_at", models.DateTimeField()),
                ("attempt", models.IntegerField()),
                ("max_retries", models.IntegerField()),
                ("enqueued_at", models.DateTimeField()),
                ("errors", models.JSONField(null=True)),
                ("worker", models.TextField(null=True)),
                ("claimed_at", models.DateTimeField(null=True)),
                ("lease_until", models.DateTimeField(null=True)),
                ("ended_at", models.DateTimeField(null=True)),
                ("result", models.JSONField(null=True)),
                ("context", models.JSONField(null=True)),
                ("group_key", models.TextField(null=True)),
                ("sensitive", models.BooleanField()),
            ],
            options={
                "verbose_name": "job",
                "db_table": "pgq_jobs",
                "ordering": ("-id",),
                "abstract": False,
                "managed": False,
                "default_permissions": ("view",),
            },
        ),
    ]
