"""The evidence log and the origin of answers as FHIR R4: AuditEvent after IHE BALP, and Provenance."""
