"""The dashboards, which `python -m deploy.reference` writes as files for Grafana."""
