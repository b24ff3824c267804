// Draws the dashboard's panels with Grafana's own components, from what Prometheus answered.
import { createRoot } from "react-dom/client";
import { useEffect, useState } from "react";
import {
  FieldType, ThemeContext, createTheme, dateTime, getDisplayProcessor, standardTransformers, standardTransformersRegistry, toDataFrame,
  transformDataFrame,
} from "@grafana/data";
import { BigValue, BigValueColorMode, BigValueGraphMode, BigValueJustifyMode, BigValueTextMode, PanelChrome, TimeSeries } from "@grafana/ui";
import { TableNG } from "@grafana/ui/unstable";
import dashboard from "../../grafana/dashboard.json";

const { span, answers } = window.ANSWERS;
const theme = createTheme({ colors: { mode: "light" } });
const timeRange = { from: dateTime(span.start * 1000), to: dateTime(span.end * 1000), raw: { from: "", to: "" } };
const CELL = { w: 52, h: 32 };
// Rows of the dashboard that are drawn: what the person on call looks at first.
const UNTIL = "Why is the limit what it is?";

standardTransformersRegistry.setInit(() =>
  [...new Set(Object.values(standardTransformers))].map((transformation) => ({ id: transformation.id, transformation, name: transformation.name, editor: () => null })),
);

// The overrides of a field, by its frame or its name.
function override(config, overrides, matches) {
  for (const { id, value } of overrides.filter(matches).flatMap((one) => one.properties)) {
    const keys = id.split(".");
    const last = keys.pop();
    keys.reduce((inner, key) => (inner[key] ??= {}), config)[last] = value;
  }
}

function frames(panel) {
  const { defaults, overrides } = panel.fieldConfig;
  const made = panel.targets.flatMap((target) =>
    (answers[panel.id][target.refId] ?? []).map((series) => {
      const name = (target.legendFormat || "value").replace(/\{\{(\w+)\}\}/g, (_, label) => series.metric[label] ?? "").trim();
      return toDataFrame({
        refId: target.refId,
        fields: [
          { name: "time", type: FieldType.time, values: series.values.map(([at]) => at * 1000), config: { interval: span.step * 1000 } },
          { name, type: FieldType.number, values: series.values.map(([, value]) => (value === "NaN" ? null : Number(value))), config: { displayName: name } },
        ],
      });
    }),
  );
  for (const frame of made) {
    for (const field of frame.fields.filter((field) => field.type === FieldType.number)) {
      field.config = { ...structuredClone(defaults), ...field.config };
      override(field.config, overrides, (one) => one.matcher.options === frame.refId);
      const custom = field.config.custom ?? {};
      custom.lineInterpolation ??= "linear";
      field.config.custom = { axisPlacement: "auto", scaleDistribution: { type: "linear" }, ...custom };
    }
  }
  made.forEach((frame, index) => {
    frame.fields.forEach((field) => {
      field.state = { seriesIndex: index };
      field.display = getDisplayProcessor({ field, theme });
    });
  });
  return made;
}

function Stat({ panel, width, height }) {
  const data = frames(panel);
  const display = (frame) => {
    const field = frame?.fields[1];
    const name = data.length > 1 ? { title: field.config.displayName } : {};
    return field ? { ...field.display(field.values[field.values.length - 1]), ...name } : { text: panel.fieldConfig.defaults.noValue ?? "No data", numeric: NaN };
  };
  const shown = data.length === 0 ? [undefined] : data;
  return (
    <div style={{ display: "flex", gap: 4 }}>
      {shown.map((frame, index) => (
        <BigValue key={index} theme={theme} width={width / shown.length - 4} height={height} value={display(frame)} colorMode={BigValueColorMode.Background}
          graphMode={BigValueGraphMode.None} justifyMode={BigValueJustifyMode.Center} textMode={panel.options.textMode === "value" ? BigValueTextMode.Value : BigValueTextMode.ValueAndName} />
      ))}
    </div>
  );
}

// What the data source makes of an answer that is a table: a frame for each expression, a column for each label.
function rows(panel) {
  return panel.targets.flatMap(({ refId }) => {
    const series = answers[panel.id][refId] ?? [];
    if (series.length === 0) return [];
    const labels = [...new Set(series.flatMap(({ metric }) => Object.keys(metric)))].sort();
    return [
      toDataFrame({
        refId,
        fields: [
          { name: "Time", type: FieldType.time, values: series.map(({ values }) => values[0][0] * 1000) },
          ...labels.map((label) => ({ name: label, type: FieldType.string, values: series.map(({ metric }) => metric[label] ?? ""), config: { filterable: true } })),
          { name: panel.targets.length > 1 ? `Value #${refId}` : "Value", type: FieldType.number, values: series.map(({ values }) => Number(values[0][1])) },
        ],
      }),
    ];
  });
}

function Rows({ panel, width, height }) {
  const [frame, setFrame] = useState(null);
  useEffect(() => {
    const subscription = transformDataFrame(panel.transformations, rows(panel)).subscribe(([made]) => {
      const { defaults, overrides } = panel.fieldConfig;
      for (const field of made.fields) {
        const name = field.config.displayName ?? field.name;
        field.config = { ...structuredClone(defaults), ...field.config, displayName: name };
        override(field.config, overrides, (one) => one.matcher.options === name);
        if (field.type !== FieldType.number) delete field.config.unit;
        field.config.color ??= { mode: "thresholds" };
        field.state = { displayName: name };
        field.display = getDisplayProcessor({ field, theme });
      }
      setFrame(made);
    });
    return () => subscription.unsubscribe();
  }, []);
  return frame && <TableNG data={frame} width={width} height={height} cellHeight={panel.options.cellHeight} enableVirtualization={false} />;
}

function Series({ panel, width, height }) {
  const data = frames(panel);
  if (data.length === 0) return <p style={{ padding: 16 }}>No data</p>;
  return <TimeSeries frames={data} structureRev={1} width={width} height={height} timeRange={timeRange} timeZone="utc" legend={panel.options.legend} options={panel.options} />;
}

// Not among Grafana's components: a row a bucket, the lowest below, the darker the more samples.
function Heatmap({ panel, width, height }) {
  const bound = (series) => (series.metric.le === "+Inf" ? Infinity : Number(series.metric.le));
  const buckets = [...answers[panel.id].A].sort((a, b) => bound(a) - bound(b));
  if (buckets.length === 0) return <p style={{ padding: 16 }}>No data</p>;
  const row = height / buckets.length;
  const seconds = span.end - span.start;
  const cells = buckets.flatMap((bucket, index) =>
    bucket.values.map(([at, value], column) => {
      const below = index === 0 ? 0 : Number(buckets[index - 1].values[column]?.[1] ?? 0);
      const all = Number(buckets[buckets.length - 1].values[column]?.[1] ?? 0);
      const share = (Number(value) - below) / all;
      const x = 50 + ((at - span.start) / seconds) * (width - 60);
      return share > 0 && <rect key={`${index} ${at}`} x={x} y={height - (index + 1) * row} width={(width - 60) / seconds + 0.5} height={row - 1} fill="#c4162a" opacity={share} />;
    }),
  );
  const labels = buckets.map((bucket, index) => (
    <text key={index} x={44} y={height - index * row - row / 3} textAnchor="end" fontSize="11">{bucket.metric.le}</text>
  ));
  return <svg width={width} height={height}>{cells}{labels}</svg>;
}

const KINDS = { stat: Stat, timeseries: Series, heatmap: Heatmap, table: Rows };

function Panel({ panel }) {
  const { x, y, w, h } = panel.gridPos;
  const place = { position: "absolute", left: x * CELL.w, top: y * CELL.h, width: w * CELL.w - 8, height: h * CELL.h - 8 };
  if (panel.type === "row") return <h3 style={{ ...place, font: "600 16px Inter, sans-serif", margin: 4 }}>{panel.title}</h3>;
  const Kind = KINDS[panel.type];
  if (!Kind) return null;
  return (
    <div style={place}>
      <PanelChrome title={panel.title} width={place.width} height={place.height}>
        {(width, height) => <Kind panel={panel} width={width} height={height} />}
      </PanelChrome>
    </div>
  );
}

const end = dashboard.panels.find((panel) => panel.title === UNTIL).gridPos.y;
const drawn = dashboard.panels.filter((panel) => panel.gridPos.y < end);
document.body.style.height = `${end * CELL.h}px`;
createRoot(document.getElementById("root")).render(
  <ThemeContext.Provider value={theme}>{drawn.map((panel) => <Panel key={panel.id} panel={panel} />)}</ThemeContext.Provider>,
);
