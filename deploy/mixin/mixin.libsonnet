// Alerts and dashboard of listen-queue-exporter, in the form of the Prometheus monitoring mixins:
//
//   (import 'mixin.libsonnet') + { _config+:: { selector: 'cluster="one"', nearlyFull: '0.9' } }
//
// `make generate` writes the files in deploy/prometheus and the dashboard in grafana from it, with the defaults of config.libsonnet.
(import 'config.libsonnet') +
(import 'alerts.libsonnet') +
(import 'dashboard.libsonnet')
