// The dashboard. For all of it:
//
// - A variable whose label no series has selects all.
// - Totals over the time shown count a series that began in it from 0, as the alerts do.
// - A panel of many listeners shows the same ones over the whole time shown: those with the highest values in it.
{
  local c = $._config,
  local labels(names) = std.join(', ', names),
  local listener = labels(c.listenerLabels),
  local target = labels(std.filter(function(label) label != 'listener', c.listenerLabels)),
  local scrape = labels([label for label in c.listenerLabels if std.member(['cluster', 'job', 'instance'], label)]),
  local datasource = { type: 'prometheus', uid: '${datasource}' },

  local selection(names, more='') = std.join(',', std.filter(
    function(matcher) matcher != '',
    [c.selector] + ['%s=~"$%s"' % [name, name] for name in names] + [more]
  )),
  local series(name, more='') = '%s{%s}' % [name, selection(c.dashboardLabels + ['listener'], more)],
  // Series of a network namespace, which have no label listener.
  local namespace(name, more='') = '%s{%s}' % [name, selection(c.dashboardLabels, more)],
  // Series of the exporter itself. With --node it runs in a pod of its own, so it is selected by the listeners that it watches.
  local exporter(name, more='', of='%s') =
    '(%s and on (%s) (%s or on (%s) %s))' % [
      of % ('%s{%s}' % [name, selection(std.filter(function(label) std.member(['cluster', 'job', 'instance'], label), c.dashboardLabels), more)]),
      scrape,
      series('listen_queue_listener_up'),
      scrape,
      namespace('listen_queue_exporter_build_info'),
    ],
  local rate(metric) = 'rate(%s[$__rate_interval])' % metric,
  local increase(metric) = 'increase(%s[$__rate_interval])' % metric,

  // Increase over the time shown.
  local born = |||
    (last_over_time(%(metric)s[$__range]) unless %(metric)s offset $__range)
    and on (%(scrape)s) (up offset $__range == 1 or time() - last_over_time(process_start_time_seconds[$__range]) < $__range_s)
  |||,
  // What the kernel counted before the exporter of a host or a node started is no news. Only the series of a sidecar have pod and no cgroup.
  local kernelBorn = |||
    (last_over_time(%(metric)s[$__range]) unless %(metric)s offset $__range)
    and on (%(scrape)s) up offset $__range == 1
    or (last_over_time(%(sidecar)s[$__range]) unless %(sidecar)s offset $__range)
    and on (%(scrape)s) time() - last_over_time(process_start_time_seconds[$__range]) < $__range_s
  |||,
  local total(metric, sidecar='') =
    local first = (if sidecar == '' then born else kernelBorn) % { metric: metric, sidecar: sidecar, scrape: scrape };
    // Exact for a series that began in that time and was never reset.
    '((%(born)s) and resets(%(metric)s[$__range]) == 0 or increase(%(metric)s[$__range]))' % {
      born: std.strReplace(std.rstripChars(first, '\n'), '\n', ' '),
      metric: metric,
    },
  local highest(metric) = 'max_over_time(%s[$__range])' % metric,
  local refused = 'max without (source) (%s)' % total(series('listen_queue_refused_connects_total')),
  local full = total(series('listen_queue_full_seconds_total')),
  local known = 'group by (%s) (last_over_time(%s[$__range]))' % [listener, series('listen_queue_listener_up')],
  // The 20 listeners with the highest values in the time shown.
  local top(expr, worst) = '%s and on (%s) topk(20, max by (%s) (%s))' % [expr, listener, listener, worst],
  local end(metric, f='max') = '%s_over_time(%s[$__range] @ end())' % [f, metric],
  local increased(metric) = 'increase(%s[$__range] @ end())' % metric,

  local name = '{{listener}} {{pod}} {{instance}}',
  local query(refId, expr, legend='') = { datasource: datasource, editorMode: 'code', expr: expr, legendFormat: legend, range: true, refId: refId },
  local now(refId, expr, legend='') = query(refId, expr, legend) { instant: true, range: false },
  local cell(refId, expr) = now(refId, expr) { format: 'table' },
  local queries(list) = [
    query(std.char(65 + index), list[index][1], list[index][0])
    for index in std.range(0, std.length(list) - 1)
  ],
  local runbook(alert) = { title: alert, url: c.runbookPrefix + alert + '.md', type: 'link', targetBlank: true },

  local panel(type, title, description, unit, targets, runbooks=[]) = {
    type: type,
    title: title,
    description: description,
    datasource: datasource,
    fieldConfig: { defaults: { unit: unit }, overrides: [] },
    links: [runbook(alert) for alert in runbooks],
    targets: targets,
  },
  local steps(list) = { mode: 'absolute', steps: [{ color: step[0], value: step[1] } for step in list] },
  local stat(title, description, targets, noValue, color, runbooks=[]) =
    panel('stat', title, description, 'locale', targets, runbooks) {
      fieldConfig+: {
        defaults+: {
          color: { mode: 'thresholds' },
          decimals: 0,
          noValue: noValue,
          thresholds: steps(if color == 'text' then [['text', null]] else [['green', null], [color, 0.0001]]),
        },
      },
      options: {
        colorMode: 'background',
        graphMode: 'none',
        justifyMode: 'center',
        orientation: 'auto',
        reduceOptions: { calcs: ['lastNotNull'], fields: '', values: false },
        textMode: if std.length(targets) > 1 then 'value_and_name' else 'value',
      },
    },
  local graph(title, description, unit, list, runbooks=[]) =
    panel('timeseries', title, description, unit, queries(list), runbooks) {
      fieldConfig+: {
        defaults+: {
          color: { mode: 'palette-classic' },
          min: 0,
          custom: {
            drawStyle: 'line',
            fillOpacity: 10,
            lineInterpolation: 'linear',
            lineWidth: 1,
            showPoints: 'never',
            spanNulls: false,
            stacking: { group: 'A', mode: 'none' },
          },
        },
      },
      options: {
        legend: { calcs: ['max', 'lastNotNull'], displayMode: 'table', placement: 'bottom', showLegend: true, sortBy: 'Max', sortDesc: true },
        tooltip: { mode: 'multi', sort: 'desc' },
      },
    },
  local share = { fieldConfig+: { defaults+: { max: 1 } } },
  local override(matcher, option, properties) = {
    matcher: { id: matcher, options: option },
    properties: [{ id: id, value: properties[id] } for id in std.objectFields(properties)],
  },
  local dashed(refId) = {
    fieldConfig+: { overrides+: [override('byFrameRefID', refId, { 'custom.fillOpacity': 0, 'custom.lineStyle': { dash: [8, 6], fill: 'dash' } })] },
  },
  local table(title, description, targets, transformations, runbooks=[]) =
    panel('table', title, description, 'locale', targets, runbooks) {
      fieldConfig+: { defaults+: { custom: { align: 'auto', cellOptions: { type: 'auto' }, inspect: false } } },
      options: { cellHeight: 'sm', footer: { countRows: false, fields: '', reducer: ['sum'], show: false }, showHeader: true },
      transformations: transformations,
    },
  local organize(names, order, hidden=[]) = {
    id: 'organize',
    options: {
      excludeByName: { [field]: true for field in ['Time', '__name__'] + hidden },
      indexByName: { [order[index]]: index for index in std.range(0, std.length(order) - 1) },
      renameByName: names,
    },
  },

  // Every column has a row for each listener, so that the columns can be merged. NaN stands for an unknown value.
  local column(refId, expr) = cell(refId, 'max by (%s) (%s) or on (%s) %s * NaN' % [listener, expr, listener, known]),
  local granted = '%s / %s' % [series('listen_queue_backlog'), series('listen_queue_listener_sockets')],
  local somaxconn = 'on (%s) group_left () %s' % [target, namespace('listen_queue_somaxconn')],
  local why(expr, reason) = 'label_replace(max by (%s) (%s), "why", "%s", "", "")' % [listener, expr, reason],
  local zero(expr) = '(max by (%s) (%s) or on (%s) %s * 0)' % [listener, expr, listener, known],
  local peakShare = '%s / %s' % [highest(series('listen_queue_depth_peak')), highest(series('listen_queue_capacity'))],
  local worst =
    table(
      'The worst 20',
      'Listeners sorted by refused connects in the time shown, then by the time they were full, then by their peak. The column why shows where the limit comes from. Without a source of refused connects (the nginx log or eBPF) there is no number of them.',
      [
        column('A', series('listen_queue_depth')),
        column('B', highest(series('listen_queue_capacity'))),
        column('C', peakShare),
        column('D', full),
        column('E', refused),
        column('F', highest(series('listen_queue_oldest_wait_seconds'))),
        cell('G', '%s or on (%s) %s or on (%s) %s or on (%s) %s' % [
          why('%s == %s' % [granted, somaxconn], 'net.core.somaxconn'),
          listener,
          why(granted, 'backlog of listen()'),
          listener,
          why(series('listen_queue_listener_info', 'limit="unknown"') + ' * NaN', 'unknown'),
          listener,
          why(known + ' * NaN', 'listener missing'),
        ]),
        cell('H', '%s * 1e6 + on (%s) %s * 1e3 + on (%s) %s' % [zero(refused), listener, zero(full), listener, zero(peakShare)]),
      ],
      [
        { id: 'merge', options: {} },
        { id: 'sortBy', options: { fields: {}, sort: [{ field: 'Value #H', desc: true }] } },
        { id: 'limit', options: { limitField: 20 } },
        organize(
          {
            'Value #A': 'depth',
            'Value #B': 'capacity',
            'Value #C': 'peak',
            'Value #D': 'time full',
            'Value #E': 'refused',
            'Value #F': 'oldest wait',
            'Value #G': 'limit',
          },
          ['namespace', 'pod', 'listener', 'Value #A', 'Value #B', 'Value #C', 'Value #D', 'Value #E', 'Value #F', 'Value #G', 'why', 'instance'],
          ['job', 'cgroup', 'Value #H']
        ),
      ],
      ['ListenQueueConnectionsRefused', 'ListenQueueFull', 'ListenQueueTcpOverflow'],
    ) {
      local color = { 'custom.cellOptions': { type: 'color-text' } },
      fieldConfig+: {
        defaults+: { decimals: 0, mappings: [{ type: 'special', options: { match: 'nan', result: { text: '–', index: 0 } } }], thresholds: steps([['text', null]]) },
        overrides+: [
          override('byName', 'peak', color { unit: 'percentunit', thresholds: steps([['text', null], ['orange', std.parseJson('' + c.nearlyFull)], ['red', 1]]) }),
          override('byName', 'time full', color { unit: 's', decimals: 1, thresholds: steps([['text', null], ['orange', 0.0001], ['red', c.fullSeconds]]) }),
          override('byName', 'refused', color { thresholds: steps([['text', null], ['red', 0.0001]]) }),
          override('byName', 'oldest wait', color { unit: 's', decimals: 1, thresholds: steps([['text', null], ['orange', c.slowSeconds], ['red', c.stuckSeconds]]) }),
        ] + [
          override('byName', width[0], { 'custom.width': width[1] })
          for width in [['namespace', 110], ['depth', 70], ['capacity', 85], ['peak', 70], ['time full', 90], ['refused', 85], ['oldest wait', 100], ['limit', 75], ['why', 160]]
        ] + [
          override('byName', 'instance', { links: [{ title: 'Live page', url: c.livePage, targetBlank: true }] }),
        ],
      },
    },

  local rows = [
    {
      title: 'Is anything being refused?',
      panels: [
        [8, 4, stat(
          'Pods that were full or refused, of all',
          'Pods, containers and hosts with a queue that was full or refused connects in the time shown, and how many were watched.',
          [
            now('A', 'count(group by (%s) (%s > 0 or %s > 0)) or vector(0)' % [target, full, refused], 'full or refused'),
            now('B', 'count(group by (%s) (%s))' % [target, known], 'of'),
          ],
          'none',
          'red',
          ['ListenQueueManyPodsRefuse', 'ListenQueueConnectionsRefused']
        ) {
          fieldConfig+: { overrides+: [override('byFrameRefID', 'B', { thresholds: steps([['text', null]]) })] },
        }],
        [4, 4, stat(
          'Refused connects',
          'Unix connects that failed with EAGAIN in the time shown because the queue was full, as counted by the nginx log or eBPF. If both count, this is the larger number. Without one of these sources there is no number.',
          [now('A', 'sum(%s)' % refused)],
          'no source is on',
          'red',
          ['ListenQueueConnectionsRefused']
        )],
        [4, 4, stat(
          'Queues that were full',
          'Listeners that a sample in the time shown found full. A connection that arrived then was refused (unix, non-blocking), waited (unix, blocking) or was dropped (TCP).',
          [now('A', 'sum(%s > bool 0)' % full)],
          'no listener',
          'red',
          ['ListenQueueFull']
        )],
        [4, 4, stat(
          'TCP overflows',
          "SYNs and last ACKs of handshakes that the kernel dropped in the time shown because an accept queue was full, including retries, for all TCP listeners of the pod's network namespace.",
          [now('A', 'sum(%s)' % total(namespace('listen_queue_tcp_listen_overflows_total'), namespace('listen_queue_tcp_listen_overflows_total', 'pod!="",cgroup=""')))],
          'unknown',
          'red',
          ['ListenQueueTcpOverflow', 'ListenQueueOverflowUnattributed']
        )],
        [4, 4, stat(
          'Timeouts',
          'Lines of the nginx log in the time shown that report that an upstream did not answer in time (504). A queue that is too long causes such timeouts.',
          [now('A', 'sum(%s)' % total(namespace('listen_queue_nginx_log_messages_total', 'kind="timeout"')))],
          "nginx's log is off",
          'orange'
        )],
        [24, 12, worst],
        [12, 9, graph(
          'Refused connects a second',
          'Unix connects that failed with EAGAIN, by listener. If two sources count, this is the larger number, never the sum.',
          'reqps',
          [[name, top('max without (source) (%s)' % rate(series('listen_queue_refused_connects_total')), increased(series('listen_queue_refused_connects_total')))]],
          ['ListenQueueConnectionsRefused']
        )],
        [12, 9, graph(
          "nginx's log",
          'Lines of the nginx log that arrived, by what they report, and lines that the kernel dropped on the way (known only over UDP).',
          'cps',
          [
            ['{{kind}}', 'sum by (kind) (%s)' % rate(namespace('listen_queue_nginx_log_messages_total'))],
            ['dropped', 'sum(%s)' % rate(namespace('listen_queue_nginx_log_dropped_datagrams_total'))],
          ]
        )],
      ],
    },
    {
      title: 'How full?',
      panels: [
        local peak = '%s / %s or on (%s) %s / on (%s) group_left () (%s @ end() + 1)' % [
          end(series('listen_queue_depth_peak')),
          end(series('listen_queue_capacity')),
          listener,
          end(series('listen_queue_depth_peak')),
          target,
          namespace('listen_queue_somaxconn'),
        ];
        [12, 10, graph(
          'Depth against capacity',
          'Peak depth of the minute before each scrape (line), and the depth at which the queue is full and the next connection is refused (dashed). If the limit is unknown, because sock_diag is not available, the dashed line is the most that somaxconn allows.',
          'short',
          [
            ['peak ' + name, top(series('listen_queue_depth_peak'), peak)],
            ['capacity ' + name, top(series('listen_queue_capacity'), peak)],
            ['at most (somaxconn) ' + name, top('%s * on (%s) group_left () (%s + 1) and on (%s) %s' % [
              series('listen_queue_listener_sockets'),
              target,
              namespace('listen_queue_somaxconn'),
              listener,
              series('listen_queue_listener_info', 'limit="unknown"'),
            ], peak)],
            ['at the scrape ' + name, top(series('listen_queue_depth'), peak)],
          ],
          ['ListenQueueNearlyFull', 'ListenQueueMayBeFull']
        ) + dashed('B') + dashed('C')],
        [12, 10, panel(
          'heatmap',
          'Utilization over time',
          'All samples, not only those at a scrape: how many found the utilization of a queue between two bounds. In the rows above 0.99 the queue was full, or less than 1 % of its capacity was free.',
          'short',
          [query('A', 'sum by (le) (%s)' % increase(series('listen_queue_utilization_ratio_bucket')), '{{le}}') { format: 'heatmap' }]
        ) {
          options: {
            calculate: false,
            cellGap: 1,
            color: { exponent: 0.3, fill: 'dark-orange', mode: 'scheme', reverse: false, scale: 'exponential', scheme: 'Oranges', steps: 64 },
            exemplars: { color: 'rgba(255,0,255,0.7)' },
            filterValues: { le: 1e-09 },
            legend: { show: true },
            rowsFrame: { layout: 'le' },
            showValue: 'never',
            tooltip: { show: true, yHistogram: false },
            yAxis: { axisPlacement: 'left', reverse: false, unit: 'percentunit' },
          },
        }],
        [8, 9, graph(
          'Share of time full',
          'Share of the time in which samples found the queue full. This is an estimate with an error of at most one sample interval at each end of an episode.',
          'percentunit',
          [[name, top(rate(series('listen_queue_full_seconds_total')), increased(series('listen_queue_full_seconds_total')))]],
          ['ListenQueueFull']
        ) + share],
        [8, 9, graph(
          'Times it became full',
          'Number of episodes, including short ones between two scrapes.',
          'short',
          [[name, top(increase(series('listen_queue_full_episodes_total')), increased(series('listen_queue_full_episodes_total')))]]
        )],
        [8, 9, graph(
          'Share of samples above 75 %',
          'Share of all samples that found the queue nearly full.',
          'percentunit',
          [[name, top('1 - %s / ignoring (le) %s' % [
            rate(series('listen_queue_utilization_ratio_bucket', 'le="0.75"')),
            rate(series('listen_queue_utilization_ratio_bucket', 'le="+Inf"')),
          ], end(series('listen_queue_depth_peak')) + ' / ' + end(series('listen_queue_capacity')))]],
          ['ListenQueueNearlyFull']
        ) + share],
      ],
    },
    {
      title: 'How long do they wait?',
      panels: [
        [8, 9, graph(
          'Wait of the head of the queue',
          'Time that the connection at the head of the queue has waited, as a lower bound that is short by at most one sample interval. If the line rises by one second each second, the application accepts no connection.',
          's',
          [[name, top(series('listen_queue_oldest_wait_seconds'), end(series('listen_queue_oldest_wait_seconds')))]],
          ['ListenQueueNotMoving', 'ListenQueueSlow']
        )],
        local quantile(q) = 'histogram_quantile(%s, sum by (le, listener) (%s))' % [q, rate(series('listen_queue_wait_seconds_bucket'))];
        local longest = 'topk(20, sum by (listener) (%s))' % increased(series('listen_queue_wait_seconds_sum'));
        [8, 9, graph(
          'Time in the queue, by listener',
          'Median and 99th percentile of the connections that were in the queue at a sample and have left it (unix), over all pods of a listener. Most waits shorter than a sample interval are not observed, so this shows the slow ones.',
          's',
          [
            ['99 % {{listener}}', '%s and on (listener) %s' % [quantile('0.99'), longest]],
            ['median {{listener}}', '%s and on (listener) %s' % [quantile('0.5'), longest]],
          ]
        )],
        [8, 9, graph(
          'Gave up, or stuck outside',
          'Queued connections whose client has disconnected (abandoned), and connect() calls that sleep because the queue is full (blocked).',
          'short',
          [
            ['abandoned ' + name, top(series('listen_queue_abandoned_connections'), end(series('listen_queue_abandoned_connections')))],
            ['blocked ' + name, top(series('listen_queue_blocked_connects'), end(series('listen_queue_blocked_connects')))],
          ]
        )],
      ],
    },
    {
      title: 'Why is the limit what it is?',
      panels: [
        [16, 9, table(
          'Limits',
          'Granted is the limit that the kernel enforces for each socket: the lower of the backlog that the application passed to listen() and somaxconn at that moment. If it equals somaxconn, raise somaxconn, then restart the application. If it is below somaxconn, the application requests too little, or has not called listen() since somaxconn was raised.',
          [
            column('A', granted),
            column('B', series('listen_queue_requested_backlog')),
            column('C', '%s * 0 + %s' % [series('listen_queue_listener_up'), somaxconn]),
            column('D', series('listen_queue_listener_sockets')),
            column('E', series('listen_queue_listener_up')),
          ],
          [
            { id: 'merge', options: {} },
            organize(
              { 'Value #A': 'granted', 'Value #B': 'requested', 'Value #C': 'somaxconn', 'Value #D': 'sockets', 'Value #E': 'up' },
              ['listener', 'namespace', 'pod', 'instance', 'Value #E', 'Value #D', 'Value #A', 'Value #B', 'Value #C'],
              ['job', 'cgroup']
            ),
          ],
          ['ListenQueueLimitBelowRequested', 'ListenQueueListenerMissing']
        ) {
          fieldConfig+: { defaults+: { mappings: worst.fieldConfig.defaults.mappings } },
        }],
        [8, 9, graph(
          'somaxconn and what was granted',
          'If somaxconn changes and the granted limits do not follow, listen() has not been called since.',
          'short',
          [
            ['granted {{listener}}', 'max by (listener) (%s)' % granted],
            ['somaxconn', 'max(%s)' % namespace('listen_queue_somaxconn')],
            ['requested {{listener}}', 'max by (listener) (%s)' % series('listen_queue_requested_backlog')],
          ]
        ) + dashed('B')],
      ],
    },
    {
      title: 'TCP',
      panels: [
        [8, 9, graph(
          'Overflows and drops of the namespace',
          'TcpExt ListenOverflows (accept queue full), ListenDrops (that and every other reason), TCPReqQFullDrop and TCPReqQFullDoCookies (SYN queue full).',
          'pps',
          [
            [what[0], 'sum(%s)' % rate(namespace('listen_queue_tcp_%s_total' % what[1]))]
            for what in [
              ['overflows', 'listen_overflows'],
              ['drops', 'listen_drops'],
              ['SYN queue full, dropped', 'request_queue_full_drops'],
              ['SYN queue full, cookie sent', 'request_queue_full_cookies'],
            ]
          ],
          ['ListenQueueTcpOverflow', 'ListenQueueOverflowUnattributed']
        )],
        [8, 9, graph(
          'Drops by listener',
          'Packets dropped at the listener. This is not the number of overflows: deferred accepts, health checks that reset the connection and port scans count, too. Compare with the panel on the left.',
          'pps',
          [[name, top(rate(series('listen_queue_listener_drops_total')), increased(series('listen_queue_listener_drops_total')))]]
        )],
        [8, 9, graph(
          'SYN queue',
          'Half-open connections, scanned only while the accept queue is not empty.',
          'short',
          [[name, top(series('listen_queue_syn_queue_depth'), end(series('listen_queue_syn_queue_depth')))]]
        )],
      ] + [
        [8, 3, stat(setting[0], setting[1] + ' The highest of the pods shown.', [now('A', 'max(%s)' % namespace('listen_queue_' + setting[0]))], 'unknown', 'text')]
        for setting in [
          ['tcp_max_syn_backlog', 'net.ipv4.tcp_max_syn_backlog: with cookies off, SYNs are dropped above three quarters of it.'],
          ['tcp_syncookies', 'net.ipv4.tcp_syncookies: 0 never, 1 when the SYN queue is full, 2 always. Cookies do not help when the accept queue is full.'],
          ['tcp_abort_on_overflow', 'net.ipv4.tcp_abort_on_overflow: 1 answers an overflow at the end of the handshake with a reset. A SYN to a full queue is dropped without an answer either way.'],
        ]
      ],
    },
    {
      title: 'The exporter itself',
      local rateOf(metric) = exporter(metric, of='rate(%s[$__rate_interval])'),
      local by = '{{pod}} {{instance}}',
      // Exporters, not listeners.
      local topExporters(expr, worst) = '%s and on (%s) topk(20, max by (%s) (%s))' % [expr, scrape, scrape, worst],
      local own(metric) = '%s{%s}' % [metric, selection([])],
      panels: [
        [8, 9, graph(
          'Sources',
          "Whether each source works (1) or fails (0). Metrics that depend on a failed source are absent, and the exporter's log has the remedy.",
          'short',
          [['{{source}}', 'min by (source) (%s)' % exporter('listen_queue_source_up')]],
          ['ListenQueueExporterBlind', 'ListenQueueExporterDegraded']
        ) + share],
        [8, 9, graph('Source errors per second', 'Failed reads, by source.', 'cps', [['{{source}}', 'sum by (source) (%s)' % rateOf('listen_queue_source_errors_total')]])],
        [8, 9, graph(
          'Late samples',
          'Share of sampling rounds that started more than one interval late: the exporter lacked CPU time, and short bursts may have been missed.',
          'percentunit',
          [[by, topExporters('%s / %s' % [rateOf('listen_queue_samples_late_total'), rateOf('listen_queue_samples_total')], increased(own('listen_queue_samples_late_total')))]],
          ['ListenQueueExporterBlind']
        )],
        [8, 9, graph(
          'Duration of a sampling round',
          'Median and 99th percentile of the time spent reading kernel state in one sampling round.',
          's',
          [
            ['median', 'histogram_quantile(0.5, sum by (le) (%s))' % rateOf('listen_queue_sample_duration_seconds_bucket')],
            ['99 %', 'histogram_quantile(0.99, sum by (le) (%s))' % rateOf('listen_queue_sample_duration_seconds_bucket')],
          ]
        )],
        [8, 9, graph(
          'Unanchored samples',
          'Share of samples whose queue had no connection in common with the previous sample, or was too long to list. Between two such samples, the wait histogram may have missed connections. An idle queue is at 100 %.',
          'percentunit',
          [[name, top('%s / on (%s) group_left () %s' % [
            rate(series('listen_queue_unanchored_rounds_total')),
            scrape,
            rateOf('listen_queue_samples_total'),
          ], increased(series('listen_queue_unanchored_rounds_total')))]]
        ) + share],
        [8, 9, graph(
          'Listeners',
          'Listeners that are found, that are missing, and that are not watched because discovery has a limit.',
          'short',
          [
            ['found', 'sum(%s)' % series('listen_queue_listener_up')],
            ['missing', 'sum(1 - %s)' % series('listen_queue_listener_up')],
            ['ignored', 'sum(%s)' % exporter('listen_queue_discovery_ignored_listeners')],
          ],
          ['ListenQueueListenerMissing', 'ListenQueueDiscoveryLimited']
        )],
        [8, 9, graph(
          'Replacements',
          'Number of times that new sockets replaced those of an address: restarts of the application.',
          'short',
          [[name, top(increase(series('listen_queue_listener_replacements_total')), increased(series('listen_queue_listener_replacements_total')))]],
          ['ListenQueueListenerFlapping']
        )],
        [8, 9, graph(
          'CPU',
          'Share of a core that the exporter uses.',
          'percentunit',
          [[by, topExporters('%s and on (%s) listen_queue_exporter_build_info' % [rateOf('process_cpu_seconds_total'), scrape], '%s and on (%s) listen_queue_exporter_build_info @ end()' % [increased(own('process_cpu_seconds_total')), scrape])]]
        )],
        [8, 9, graph(
          'Memory',
          'Resident memory of the exporter.',
          'bytes',
          [[by, topExporters('%s and on (%s) listen_queue_exporter_build_info' % [exporter('process_resident_memory_bytes'), scrape], '%s and on (%s) listen_queue_exporter_build_info @ end()' % [end(own('process_resident_memory_bytes')), scrape])]]
        )],
        [12, 5, table('Versions', 'Exporters by version and revision.', [
          cell('A', 'count by (version, revision) (%s)' % exporter('listen_queue_exporter_build_info')),
        ], [organize({ Value: 'exporters' }, [])])],
        [12, 5, table('Families and addresses', 'Family and address of each listener.', [
          cell('A', 'count by (listener, family, address) (%s)' % series('listen_queue_listener_info')),
        ], [organize({ Value: 'targets' }, [])])],
      ],
    },
  ],

  // Panels from the left to the right and downwards, with ids in this order.
  local flat = std.flattenArrays([
    [[24, 1, { type: 'row', title: row.title, collapsed: false, panels: [] }]] + row.panels
    for row in rows
  ]),
  local placed = std.foldl(
    function(at, each)
      local fits = at.x + each[0] <= 24;
      local x = if fits then at.x else 0;
      local y = if fits then at.y else at.y + at.h;
      {
        x: x + each[0],
        y: y,
        h: if fits then std.max(at.h, each[1]) else each[1],
        panels: at.panels + [each[2] { id: std.length(at.panels) + 1, gridPos: { h: each[1], w: each[0], x: x, y: y } }],
      },
    flat,
    { x: 0, y: 0, h: 0, panels: [] }
  ),

  local variable(name, index) = {
    name: name,
    label: std.asciiUpper(name[0]) + name[1:],
    type: 'query',
    datasource: datasource,
    query: {
      qryType: 1,
      query: 'label_values(listen_queue_listener_up{%s}, %s)' % [selection((c.dashboardLabels + ['listener'])[:index]), name],
      refId: 'PrometheusVariableQueryEditor-VariableQuery',
    },
    refresh: 2,
    sort: 1,
    multi: true,
    includeAll: true,
    allValue: '.*',
    current: { selected: true, text: ['All'], value: ['$__all'] },
    hide: 0,
    skipUrlSync: false,
    regex: '',
    options: [],
  },
  local annotation(name, color, expr, title) = {
    name: name,
    datasource: datasource,
    enable: true,
    hide: false,
    iconColor: color,
    expr: expr,
    titleFormat: title,
  },

  grafanaDashboards+:: {
    'listen-queue-exporter.json': {
      uid: 'listen-queue-exporter',
      title: 'Listen queues',
      description: 'Accept queues of listening sockets: what is refused, how full they are, how long connections wait, and why the limit is what it is.',
      tags: ['listen-queue-exporter'],
      schemaVersion: 39,
      version: 1,
      editable: true,
      graphTooltip: 1,
      refresh: '30s',
      time: { from: 'now-1h', to: 'now' },
      timepicker: {},
      timezone: '',
      fiscalYearStartMonth: 0,
      weekStart: '',
      links: [{ title: 'Runbooks', type: 'link', url: c.runbookPrefix, icon: 'doc', targetBlank: true, asDropdown: false, includeVars: false, keepTime: false, tags: [], tooltip: 'What each alert means and what to do' }],
      annotations: {
        list: [
          annotation('Alerts', 'red', 'count by (alertname, listener) (%s)' % series('ALERTS', 'alertname=~"ListenQueue.*",alertstate="firing"'), '{{alertname}} {{listener}}'),
          annotation('Replacements', 'blue', 'sum by (listener) (increase(%s[$__rate_interval])) > 0' % series('listen_queue_listener_replacements_total'), '{{listener}} is served by another socket'),
        ],
      },
      templating: {
        list: [{
          name: 'datasource',
          label: 'Data source',
          type: 'datasource',
          query: 'prometheus',
          refresh: 1,
          multi: false,
          includeAll: false,
          current: { selected: false, text: '', value: '' },
          hide: 0,
          skipUrlSync: false,
          regex: '',
          options: [],
        }] + [
          variable((c.dashboardLabels + ['listener'])[index], index)
          for index in std.range(0, std.length(c.dashboardLabels))
        ],
      },
      panels: placed.panels,
    },
  },
}
