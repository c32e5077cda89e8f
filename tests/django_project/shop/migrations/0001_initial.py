"""The table of notes; it comes after pgq, as that of an app whose migrations enqueue jobs would."""

from django.db import migrations, models


class Migration(migrations.Migration):
    """The only one."""

    initial = True
    dependencies = [("pgq", "0001_initial")]
    operations = [
        migrations.CreateModel(
            name="Note",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("text", models.TextField()),
            ],
        )
    ]
