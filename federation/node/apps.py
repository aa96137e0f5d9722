from django.apps import AppConfig


class NodeConfig(AppConfig):
    """What runs at a hospital: records, retrieval and the engine's client. Its tables live in the node's database."""

    name = "federation.node"
    label = "node"
    default_auto_field = "django.db.models.BigAutoField"
    verbose_name = "Hospital node"
