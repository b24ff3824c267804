// Everything that an installation may want to change. mixin.libsonnet shows how.
{
  _config+:: {
    // Only series that match this are read, for example 'cluster="one"'. If it is empty, all are.
    selector: '',
    // Finds the exporters that cannot be scraped at all.
    jobSelector: 'job=~".*listen-queue-exporter.*"',
    // Labels that together identify a listener. A series may lack some of them.
    listenerLabels: ['cluster', 'job', 'instance', 'namespace', 'pod', 'cgroup', 'listener'],
    // Labels that all pods of a workload have in common.
    workloadLabels: ['cluster', 'namespace', 'job', 'workload', 'listener'],
    // Labels for which the dashboard has a variable, besides the listener, from the widest to the narrowest.
    dashboardLabels: ['cluster', 'job', 'namespace', 'pod', 'instance'],
    // Link of an exporter's address in the tables of the dashboard.
    livePage: 'http://${__data.fields.instance}/',
    // Labels that every alert has in addition to its severity.
    extraLabels: {},
    severities: { critical: 'critical', warning: 'warning', info: 'info' },
    runbookPrefix: 'https://github.com/listen-queue-exporter/listen-queue-exporter/blob/main/deploy/prometheus/runbooks/',

    // Scrapes may be up to a minute apart, and one may fail: a window shorter than three minutes may contain only one sample.
    window: '5m',
    stuckWindow: '3m',
    // The same where the exporter cannot tell for how long connections wait. A scrape a minute makes the ten samples that the alert needs.
    unagedWindow: '15m',
    // Without a source of refused connects, a unix queue that was full for longer than this within the window counts as having refused connections.
    fullSeconds: 10,
    // A few ordinary waiting clients fill a queue of this capacity or less, as those of Python's multiprocessing do.
    smallCapacity: 8,
    // Share of the capacity.
    nearlyFull: '0.75',
    // Seconds that the head of the queue waits: with a queue that moves, and with one that does not.
    slowSeconds: 10,
    stuckSeconds: 30,
    // Pods of one workload that refuse connections at the same time.
    manyPods: 2,
    replacements: 3,
    lateRatio: '0.1',
    // Whether to alert when no exporter is scraped at all.
    absent: false,
  },
}
