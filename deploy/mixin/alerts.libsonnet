// The alerts and their recording rules. For all of them:
//
// - A counter that appears for the first time counts from 0, so a pod that was full before its first scrape counts as full.
// - While a critical alert of a listener fires, the warnings that follow from it do not.
// - Joins name the labels of a listener, so that a new label of a series breaks no join.
{
  local c = $._config,
  local labels(names) = std.join(', ', names),
  local listener = labels(c.listenerLabels),
  local target = labels(std.filter(function(label) label != 'listener', c.listenerLabels)),
  local scrape = labels([label for label in c.listenerLabels if std.member(['cluster', 'job', 'instance'], label)]),
  local series(name, matchers='') =
    local all = std.filter(function(m) m != '', [matchers, c.selector]);
    name + (if all == [] then '' else '{' + std.join(',', all) + '}'),

  // The last value of a scrape: a series of a target whose scrape failed is stale, and an alert must not resolve because of that.
  local recent(metric) = 'last_over_time(%s[%s])' % [metric, c.window],

  // The increase of a counter. Where the series did not exist a window ago, it is the whole value if the exporter started later, and what is above the
  // last value of the hour before if it did not: a listener that comes back continues its counters. `own` are the series that began with the exporter. `unknown`
  // excludes those that existed all the time but could not be read.
  local increase(counter, own, unknown) =
    local args = {
      metric: series(counter),
      new: '(%s unless %s offset %s%s)' % [recent(series(counter)), series(counter), c.window, unknown],
      newOwn: '(%s unless %s offset %s)' % [recent(series(counter, own)), series(counter), c.window],
      recent: recent(series(counter)),
      window: c.window,
      scrape: scrape,
      up: series('up'),
      start: recent(series('process_start_time_seconds')),
    };
    |||
      (
        %(newOwn)s
        and on (%(scrape)s) (time() - %(start)s < %(window)s_SECONDS)
      )
      or
      (
        %(new)s
          - (last_over_time(%(metric)s[1h] offset %(window)s) <= %(recent)s or %(recent)s * 0)
        and on (%(scrape)s) %(up)s offset %(window)s == 1
      )
      or
      increase(%(metric)s[%(window)s])
    ||| % args,
  // What the kernel counts for a network namespace. A sidecar starts with its pod, but a host and the pods of a node are older than their exporter, and
  // what was counted before it started is no news. Only the series of a sidecar have pod and no cgroup.
  local sidecar = 'pod!="",cgroup=""',
  local seconds(duration) =
    local number = std.parseInt(std.substr(duration, 0, std.length(duration) - 1));
    number * { s: 1, m: 60, h: 3600 }[duration[std.length(duration) - 1]],
  local indent(text, by) = std.join('\n', [
    if line == '' then line else std.repeat(' ', by) + line
    for line in std.split(std.rstripChars(text, '\n'), '\n')
  ]),

  local firing(names) = series('ALERTS', 'alertname=~"%s",alertstate="firing"' % std.join('|', names)),
  local unless(names) = 'unless on (%s) %s' % [listener, firing(names)],
  local of(family) = 'and on (%s) %s' % [listener, recent(series('listen_queue_listener_info', 'family="%s"' % family))],

  local host = '{{ with $labels.pod }}{{ . }}{{ else }}{{ $labels.instance }}{{ end }}',
  local where = '{{ $labels.listener }} on ' + host,
  local number = '{{ $value | printf "%.0f" }}',
  local size = '{{ with $labels.capacity }} ({{ . }} of {{ . }}){{ end }}',
  local of_size = '{{ with $labels.capacity }} of {{ . }}{{ end }}',
  local workload = '{{ with $labels.workload }} of {{ . }}{{ end }}{{ with $labels.namespace }} in {{ . }}{{ end }}',
  // The only query of a description: what else is known about the listener, one sentence each. Some rulers cannot run queries, so summaries have none.
  local facts =
    local own = std.filter(function(label) label != 'listener', c.listenerLabels);
    local matchers = std.join(',', [label + '=%q' for label in own]);
    local values = std.join(' ', ['$labels.' + label for label in own]);
    local known = [
      {
        name: 'refused',
        query: 'max(%s{%%[1]s,listener=%%[2]q}) > 0' % refused,
        text: 'About {{ .Value | printf "%.0f" }} connects were refused within ' + c.window + '. ',
      },
      {
        name: 'full',
        query: 'max(%s{%%[1]s,listener=%%[2]q}) > 0' % full,
        text: 'It was full for {{ .Value | humanizeDuration }} within ' + c.window + '. ',
      },
      {
        name: 'limit',
        query: 'max(listen_queue_backlog{%%[1]s,listener=%%[2]q} / listen_queue_listener_sockets == on (%s) group_left () max by (%s) (listen_queue_somaxconn))' % [target, target],
        text: 'Its limit is net.core.somaxconn, {{ .Value | printf "%.0f" }}. ',
      },
    ];
    local query = std.join(' or ', ['label_replace(%s, `fact`, `%s`, ``, ``)' % [fact.query, fact.name] for fact in known]);
    '{{ $of := printf "%s" %s }}{{ range printf "%s" $of $labels.listener | query }}' % [matchers, values, query]
    + std.join('{{ else ', [
      '%sif eq .Labels.fact "%s" }}%s' % [if fact.name == 'refused' then '{{ ' else '', fact.name, fact.text]
      for fact in known
    ])
    + '{{ end }}{{ end }}',
  // Queues that a few ordinary waiting clients fill.
  local small = '(%s <= %s)' % [recent(series('listen_queue_capacity')), c.smallCapacity],

  local alert(name, expr, severity, summary, description, duration='', labels={}) = {
    alert: name,
    expr: expr,
    [if duration != '' then 'for']: duration,
    labels: { severity: c.severities[severity] } + labels + c.extraLabels,
    annotations: {
      summary: summary,
      description: description,
      runbook_url: c.runbookPrefix + name + '.md',
    },
  },
  local refused = 'listener:listen_queue_refused_connects:increase',
  local full = 'listener:listen_queue_full_seconds:increase',
  local capacity = 'listener:listen_queue_capacity:label',
  // The same with the label capacity where the capacity is known. Where it is not, the expression is joined with its own metric within the window.
  local sized(expr, metric) = |||
    (
    %s
    )
    * on (%s) group_left (capacity) (
      %s
      or on (%s) group by (%s) (last_over_time(%s[%s]))
    )
  ||| % [indent(expr, 2), listener, capacity, listener, listener, series(metric), c.window],
  local each = '%s / %s' % [series('listen_queue_depth_peak'), series('listen_queue_listener_sockets')],
  local record(name, expr) = { record: name, expr: expr },

  local sock_diag(source, family, table) = {
    // The family is read from the table of /proc/net, and no listener of it through sock_diag.
    taken:: |||
      %s
      unless on (%s) %s
    ||| % [
      series('listen_queue_source_up', 'source="%s"' % table) + ' == 1',
      scrape,
      series('listen_queue_listener_info', 'family="%s",limit="kernel"' % family),
    ],
    down:: series('listen_queue_source_up', 'source="%s"' % source) + ' == 0',
  },
  local families = [sock_diag('unix_diag', 'unix', 'proc_net_unix'), sock_diag('inet_diag', 'tcp', 'proc_net_tcp')],
  local joined(op) = std.join('\nor\n', [
    '(\n  %s\n  %s on (%s) (\n%s\n  )\n)' % [family.down, op, scrape, indent(family.taken, 4)]
    for family in families
  ]),

  local critical = ['ListenQueueConnectionsRefused', 'ListenQueueTcpOverflow'],
  local pages = critical + ['ListenQueueNotMoving'],

  prometheusAlerts+:: {
    groups+: [{
      // One group, so that an alert sees which alerts before it fired in the same evaluation.
      name: 'listen-queue',
      rules: [
        // A label, so that texts have it without a query. It is the capacity of one socket, and the lowest in the window, so that the labels of an alert
        // do not change with every sample.
        record(
          capacity,
          |||
            count_values by (%(listener)s) (
              "capacity",
              min by (%(listener)s) (min_over_time(%(capacity)s[%(window)s]) / min_over_time(%(sockets)s[%(window)s]))
            )
          ||| % {
            listener: listener,
            capacity: series('listen_queue_capacity'),
            sockets: series('listen_queue_listener_sockets'),
            window: c.window,
          }
        ),
        record(
          refused,
          // nginx and the kernel may count the same connect: use the larger count, never the sum.
          sized(
            'max without (source) (\n%s\n)' % indent($.increase('listen_queue_refused_connects_total'), 2),
            'listen_queue_refused_connects_total'
          )
        ),
        record(
          full,
          sized(
            $.increase(
              'listen_queue_full_seconds_total',
              // Without sock_diag the limit can be unknown for hours. What was counted before that is no news when it is known again.
              unknown=' unless on (%s) %s offset %s == 1' % [listener, series('listen_queue_listener_up'), c.window]
            ),
            'listen_queue_full_seconds_total'
          )
        ),
        alert(
          'ListenQueueConnectionsRefused',
          |||
            %(refused)s > 0
            or
            (
              %(full)s > %(seconds)s
              %(of_unix)s
              unless on (%(listener)s) %(small)s
            )
          ||| % {
            refused: refused,
            full: full,
            seconds: c.fullSeconds,
            of_unix: of('unix'),
            listener: listener,
            small: small,
          },
          'critical',
          'The accept queue of %s is full%s: connections are refused' % [where, size],
          facts
        ),
        alert(
          'ListenQueueTcpOverflow',
          |||
            %s > 0
            %s
            and on (%s) (
            %s
            ) > 0
          ||| % [full, of('tcp'), target, indent($.increase('listen_queue_tcp_listen_overflows_total', sidecar), 2)],
          'critical',
          'The accept queue of %s overflows%s' % [where, size],
          facts + 'The kernel drops the SYNs of new clients, which try again after 1 s, 3 s and 7 s, so requests are slow.'
        ),
        alert(
          'ListenQueueManyPodsRefuse',
          |||
            count by (%(workload)s) (group by (%(series)s) (%(firing)s)) >= %(many)s
          ||| % {
            // Replicas of Prometheus and two alerts for one listener do not count as more pods.
            series: labels(std.set(c.listenerLabels + c.workloadLabels)),
            workload: labels(c.workloadLabels),
            firing: firing(critical),
            many: c.manyPods,
          },
          'critical',
          'The accept queues of {{ $labels.listener }} are full on {{ $value | printf "%.0f" }} pods' + workload,
          '{{ $value | printf "%%.0f" }}{{ with printf "count(group by (%s) (listen_queue_listener_up{%s}))" %s | query }} of {{ . | first | value | printf "%%.0f" }}{{ end }} pods%s refuse connections to {{ $labels.listener }} at the same time. ' % [
            labels(c.listenerLabels),
            std.join(',', [label + '=%q' for label in c.workloadLabels]),
            std.join(' ', ['$labels.' + label for label in c.workloadLabels]),
            workload,
          ] + 'More replicas or less load help; a longer queue helps only against bursts.'
        ),
        alert(
          'ListenQueueNotMoving',
          // A long wait of the head does not show that the queue is stuck, because it was not at the head all that time. It is if no connection left:
          // none is counted, or the age of the head grows as fast as time, or without either the depth stays at its peak. If it fell, one left.
          sized(|||
            (
              %(depth)s > 0
              and on (%(listener)s) resets(%(listen_queue_depth)s[%(window)s]) == 0
              and on (%(listener)s) (
                (
                  %(oldest)s > %(stuck)s
                  and on (%(listener)s) (
                    increase(%(left)s[%(window)s]) == 0
                    or on (%(listener)s) (deriv(%(listen_queue_oldest)s[%(window)s]) > 0.95 unless on (%(listener)s) %(recentLeft)s)
                  )
                )
                or on (%(listener)s)
                (
                  max_over_time(%(peak)s[%(unaged)s]) <= min_over_time(%(listen_queue_depth)s[%(unaged)s])
                  and on (%(listener)s) count_over_time(%(listen_queue_depth)s[%(unaged)s]) >= 10
                  unless on (%(listener)s) %(oldest)s
                  unless on (%(listener)s) %(recentLeft)s
                  unless on (%(listener)s) (%(depth)s >= %(capacity)s)
                )
              )
            )
            %(unless)s
          ||| % {
            depth: recent(series('listen_queue_depth')),
            listen_queue_depth: series('listen_queue_depth'),
            oldest: recent(series('listen_queue_oldest_wait_seconds')),
            listen_queue_oldest: series('listen_queue_oldest_wait_seconds'),
            stuck: c.stuckSeconds,
            listener: listener,
            left: series('listen_queue_wait_seconds_count'),
            recentLeft: recent(series('listen_queue_wait_seconds_count')),
            peak: series('listen_queue_depth_peak'),
            capacity: recent(series('listen_queue_capacity')),
            window: c.stuckWindow,
            unaged: c.unagedWindow,
            unless: unless(critical),
          }, 'listen_queue_depth'),
          'critical',
          'The accept queue of %s does not move (%s%s waiting)' % [where, number, of_size],
          '{{ if $labels.capacity }}Connections wait, and none was accepted for %s. The workers are stuck.{{ else }}The depth has been at its peak for %s. Either the workers are stuck, or the queue is full: its limit is unknown.{{ end }}' % [c.stuckWindow, c.unagedWindow]
        ),
        alert(
          'ListenQueueFull',
          |||
            (
              (%(full)s > 0 unless on (%(listener)s) %(small)s)
              or
              %(full)s > %(seconds)s
            )
            %(unless)s
          ||| % {
            full: full,
            listener: listener,
            small: small,
            seconds: c.fullSeconds,
            unless: unless(pages),
          },
          'warning',
          'The accept queue of %s was full for {{ $value | humanizeDuration }}%s' % [where, size],
          facts + 'New connections waited, or were refused if the client does not block.'
        ),
        alert(
          'ListenQueueOverflowUnattributed',
          |||
            (
            %s
            ) > 0
            unless on (%s) (max_over_time(%s[%s]) > 0 %s)
          ||| % [
            indent($.increase('listen_queue_tcp_listen_overflows_total', sidecar), 2),
            target,
            // The two are read at different moments, so one may leave the window a scrape or two before the other.
            full,
            c.stuckWindow,
            of('tcp'),
          ],
          'warning',
          'A TCP accept queue on %s overflowed (%s times)' % [host, number],
          'The kernel counted overflows in the network namespace of ' + host + '{{ with $labels.namespace }} in {{ . }}{{ end }} within ' + c.window + ', but no sample found a watched listener full. A queue was full for less than the time between two samples, or it is not watched.'
        ),
        alert(
          'ListenQueueMayBeFull',
          // Without sock_diag and without backlog= no source reports the limit. It is net.core.somaxconn or less.
          |||
            %(peak)s / %(sockets)s
                / on (%(target)s) group_left () (max by (%(target)s) (%(somaxconn)s) + 1)
              > %(nearly)s
            and on (%(listener)s) %(unknown)s
          ||| % {
            peak: series('listen_queue_depth_peak'),
            sockets: series('listen_queue_listener_sockets'),
            target: target,
            somaxconn: series('listen_queue_somaxconn'),
            nearly: c.nearlyFull,
            listener: listener,
            unknown: series('listen_queue_listener_info', 'limit="unknown"'),
          },
          'warning',
          'The accept queue of %s may be full ({{ $value | humanizePercentage }} of net.core.somaxconn)' % where,
          'The percentage is the peak depth of the queue. Its limit is unknown, because sock_diag is not available, and may be lower than net.core.somaxconn.'
        ),
        alert(
          'ListenQueueNearlyFull',
          sized(|||
            %s
            and on (%s) %s / %s > %s
            unless on (%s) %s
            %s
          ||| % [
            each,
            listener,
            series('listen_queue_depth_peak'),
            series('listen_queue_capacity'),
            c.nearlyFull,
            listener,
            small,
            unless(pages + ['ListenQueueFull']),
          ], 'listen_queue_depth_peak'),
          'warning',
          'The accept queue of %s is nearly full (%s%s)' % [where, number, of_size],
          facts + 'Its peak has been this high for 5 minutes.',
          '5m'
        ),
        alert(
          'ListenQueueSlow',
          |||
            %s > %s
            %s
          ||| % [series('listen_queue_oldest_wait_seconds'), c.slowSeconds, unless(pages)],
          'warning',
          'Connections wait for {{ $value | humanizeDuration }} in the queue of %s' % where,
          'They are accepted, but late. There are too few workers for the load.',
          '2m'
        ),
        alert(
          'ListenQueueLimitBelowRequested',
          |||
            (
              %(backlog)s / %(sockets)s < %(requested)s
            )
            * on (%(listener)s) group_left (requested)
            count_values by (%(listener)s) ("requested", max by (%(listener)s) (%(requested)s))
          ||| % {
            backlog: series('listen_queue_backlog'),
            sockets: series('listen_queue_listener_sockets'),
            requested: series('listen_queue_requested_backlog'),
            listener: listener,
          },
          'info',
          '%s requested a queue of {{ $labels.requested }} and got %s' % [where, number],
          'net.core.somaxconn was lower when listen() was called. Raise it, then restart the application.',
          '10m'
        ),
        alert(
          'ListenQueueListenerMissing',
          series('listen_queue_listener_up') + ' == 0\n',
          'warning',
          'Listener %s is missing' % where,
          'The exporter finds no listening socket at the address in its network namespace. Its log has the reason.',
          '5m'
        ),
        alert(
          'ListenQueueListenerFlapping',
          'increase(%s[15m]) > %s\n' % [series('listen_queue_listener_replacements_total'), c.replacements],
          'warning',
          '%s was opened again about %s times within 15 minutes' % [where, number],
          'Each time, new sockets replaced those of the address. The application restarts in a loop.'
        ),
        alert(
          'ListenQueueDiscoveryLimited',
          |||
            %s > 0
            or
            %s > 0
          ||| % [series('listen_queue_discovery_ignored_listeners'), series('listen_queue_node_ignored_namespaces')],
          'info',
          'The exporter at {{ $labels.instance }} does not watch {{ $value | printf "%.0f" }} listeners or network namespaces',
          'There are more listeners than --discover.limit, or more network namespaces than --node.limit. Exclude what does not matter, or raise the limit.',
          '15m'
        ),
        alert(
          'ListenQueueExporterDegraded',
          joined('and') + '\n',
          'info',
          '{{ $labels.source }} is not available at {{ $labels.instance }}',
          'The exporter reads a table of /proc/net instead: depths are exact, limits are known only with backlog=, and drops and waits are absent. Its log has the remedy.',
          '5m'
        ),
        alert(
          'ListenQueueExporterBlind',
          |||
            %s == 0
            or
            %s
          ||| % [series('listen_queue_source_up', 'source!~"unix_diag|inet_diag"'), joined('unless')],
          'warning',
          'Source {{ $labels.source }} of the exporter at {{ $labels.instance }} fails',
          'Metrics that depend on this source are absent. The log of the exporter has the remedy.',
          '2m',
          { reason: 'source' }
        ),
        alert(
          'ListenQueueExporterBlind',
          'rate(%s[5m]) / rate(%s[5m]) > %s\n' % [series('listen_queue_samples_late_total'), series('listen_queue_samples_total'), c.lateRatio],
          'warning',
          'The exporter at {{ $labels.instance }} takes its samples late',
          '{{ $value | humanizePercentage }} of its samples were late, so short bursts are missed. It lacks CPU time.',
          '10m',
          { reason: 'late' }
        ),
        alert(
          'ListenQueueExporterBlind',
          'rate(%s[5m]) == 0\n' % series('listen_queue_samples_total'),
          'warning',
          'The exporter at {{ $labels.instance }} takes no samples',
          'It answers requests but has taken no sample for 5 minutes, so its figures are outdated. Restart it.',
          '',
          { reason: 'stopped' }
        ),
        alert(
          'ListenQueueExporterBlind',
          |||
            %s == 0
            or
            %s == 0 and on (%s) last_over_time(%s[1h])
          ||| % [series('up', c.jobSelector), series('up'), scrape, series('listen_queue_exporter_build_info')],
          'warning',
          'The exporter at {{ $labels.instance }} cannot be scraped',
          'The queues there are not watched.',
          '2m',
          { reason: 'down' }
        ),
      ] + (
        if !c.absent then [] else [alert(
          'ListenQueueExporterAbsent',
          'absent(%s)\n' % series('listen_queue_exporter_build_info'),
          'warning',
          'No listen-queue-exporter is scraped',
          'Prometheus has no series of any exporter. Either no exporter runs, or the scrape configuration does not find it.',
          '15m'
        )]
      ),
    }],
  },
  increase:: function(counter, own='', unknown='') std.strReplace(increase(counter, own, unknown), c.window + '_SECONDS', '' + seconds(c.window)),
}
