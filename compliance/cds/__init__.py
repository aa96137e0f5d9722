"""CDS Hooks: a link to the Ask page in an EHR."""
