// Draws the dashboard's panels with Grafana's own components, from what Prometheus answered during the demo.
import { createRoot } from "react-dom/client";
import { FieldType, ThemeContext, createTheme, dateTime, getDisplayProcessor, toDataFrame } from "@grafana/data";
import { BigValue, BigValueColorMode, BigValueGraphMode, BigValueJustifyMode, PanelChrome, TimeSeries } from "@grafana/ui";
import dashboard from "../../grafana/dashboard.json";

const { span, answers } = window.ANSWERS;
const theme = createTheme({ colors: { mode: "light" } });
const timeRange = { from: dateTime(span.start * 1000), to: dateTime(span.end * 1000), raw: { from: "", to: "" } };
const CELL = { w: 52, h: 32 };
// Rows of the dashboard that are drawn: what the person on call looks at first.
const UNTIL = "Why is the limit what it is?";

function frames(panel) {
  const { defaults, overrides } = panel.fieldConfig;
  const made = panel.targets.flatMap((target) =>
    (answers[panel.id][target.refId] ?? []).map((series) => {
      const name = (target.legendFormat || "value").replace(/\{\{(\w+)\}\}/g, (_, label) => series.metric[label] ?? "").trim();
      return toDataFrame({
        refId: target.refId,
        fields: [
          { name: "time", type: FieldType.time, values: series.values.map(([at]) => at * 1000), config: { interval: 1000 } },
          { name, type: FieldType.number, values: series.values.map(([, value]) => (value === "NaN" ? null : Number(value))), config: { displayName: name } },
        ],
      });
    }),
  );
  for (const frame of made) {
    const properties = overrides.filter((o) => o.matcher.options === frame.refId).flatMap((o) => o.properties);
    for (const field of frame.fields.filter((field) => field.type === FieldType.number)) {
      field.config = { ...structuredClone(defaults), ...field.config };
      for (const { id, value } of properties) {
        const keys = id.split(".");
        const last = keys.pop();
        keys.reduce((config, key) => (config[key] ??= {}), field.config)[last] = value;
      }
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
  const [frame] = frames(panel);
  const field = frame?.fields[1];
  const display = field ? field.display(field.values[field.values.length - 1]) : { text: panel.fieldConfig.defaults.noValue ?? "No data", numeric: NaN };
  return (
    <BigValue theme={theme} width={width} height={height} value={display} colorMode={BigValueColorMode.Background}
      graphMode={BigValueGraphMode.None} justifyMode={BigValueJustifyMode.Center} />
  );
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

const KINDS = { stat: Stat, timeseries: Series, heatmap: Heatmap };

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
