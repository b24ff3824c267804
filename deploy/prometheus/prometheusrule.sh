#!/usr/bin/env bash
# Prints rules.yaml as a PrometheusRule for the Prometheus operator. prometheusrule.yaml is its output:
#
#   deploy/prometheus/prometheusrule.sh > deploy/prometheus/prometheusrule.yaml
set -euo pipefail
cd "$(dirname "$0")"
cat <<'HEAD'
# Made from rules.yaml by prometheusrule.sh. Change that, not this.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: listen-queue-exporter
  labels:
    app.kubernetes.io/name: listen-queue-exporter
spec:
HEAD
sed '/./s/^/  /' rules.yaml
