from django.apps import AppConfig


class ComplianceConfig(AppConfig):
    name = "compliance"
    label = "compliance"

    def ready(self) -> None:
        from compliance.controls import checks  # noqa: F401  (registers the system checks)
