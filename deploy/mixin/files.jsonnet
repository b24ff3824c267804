// What `make generate` writes: for each file, from the root of the repository, its contents and, for YAML, its first line.
local mixin = import 'mixin.libsonnet';
// The chart fills these in, with what its values say.
local chart = mixin {
  _config+:: {
    selector: '@selector@',
    jobSelector: 'job=~"@jobs@"',
    severities: { critical: '@critical@', warning: '@warning@', info: '@info@' },
    runbookPrefix: '@runbookPrefix@',
    fullSeconds: '@fullSeconds@',
    smallCapacity: '@smallCapacity@',
    nearlyFull: '@nearlyFull@',
    slowSeconds: '@slowSeconds@',
    stuckSeconds: '@stuckSeconds@',
    manyPods: '@manyPods@',
    replacements: '@replacements@',
    lateRatio: '@lateRatio@',
    absent: true,
  },
};
local made = 'Made from deploy/mixin by make generate: change that, not this.';

{
  'deploy/prometheus/rules.yaml': {
    head: 'Alerts of listen-queue-exporter. Each has a page in runbooks/. ' + made,
    contents: mixin.prometheusAlerts,
  },
  'deploy/prometheus/prometheusrule.yaml': {
    head: 'For the Prometheus operator. ' + made,
    contents: {
      apiVersion: 'monitoring.coreos.com/v1',
      kind: 'PrometheusRule',
      metadata: {
        name: 'listen-queue-exporter',
        labels: { 'app.kubernetes.io/name': 'listen-queue-exporter' },
      },
      spec: mixin.prometheusAlerts,
    },
  },
  'deploy/helm/listen-queue-exporter/files/rules.yaml': {
    head: 'The alerts of the chart; templates/prometheusrule.yaml replaces @...@. ' + made,
    contents: chart.prometheusAlerts,
  },
  'deploy/helm/listen-queue-exporter/files/dashboard.json': {
    contents: (mixin { _config+:: { runbookPrefix: '@runbookPrefix@' } }).grafanaDashboards['listen-queue-exporter.json'],
  },
  'grafana/dashboard.json': { contents: mixin.grafanaDashboards['listen-queue-exporter.json'] },
}
