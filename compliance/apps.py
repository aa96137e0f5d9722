from django.apps import AppConfig


class ComplianceConfig(AppConfig):
    name = "compliance"
    label = "compliance"

    def ready(self) -> None:
        from compliance.anomalies import checks as anomalies  # noqa: F401  (registers the system checks)
        from compliance.controls import checks  # noqa: F401
