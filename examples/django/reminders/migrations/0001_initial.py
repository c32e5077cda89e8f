"""The tables."""

import uuid

from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    dependencies = ()
    operations = (
        migrations.CreateModel(
            name="Reminder",
            fields=[
                ("key", models.UUIDField(default=uuid.uuid4, primary_key=True, serialize=False)),
                ("text", models.TextField()),
                ("due", models.DateTimeField(db_index=True)),
                ("job_id", models.BigIntegerField(null=True)),
                ("sent_at", models.DateTimeField(null=True)),
            ],
            options={"db_table": "reminder", "ordering": ("-due",)},
        ),
    )
