// Checks objects of the Prometheus operator and of KEDA, one JSON text a line on standard input, against their schemas.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const load = (path) => import(pathToFileURL(`${process.argv[2]}/node_modules/@kubernetes-models/${path}/index.js`).href);
const monitoring = await load("prometheus-operator/monitoring.coreos.com/v1");
const keda = await load("keda/keda.sh/v1alpha1");
const kinds = { ...monitoring, ...keda };

for (const line of readFileSync(0, "utf8").split("\n").filter(Boolean)) {
  const object = JSON.parse(line);
  const Kind = kinds[object.kind];
  if (!Kind) throw new Error(`no schema for ${object.kind}`);
  const model = new Kind(object);
  if (model.apiVersion !== object.apiVersion) throw new Error(`${object.kind} is of ${model.apiVersion}, not ${object.apiVersion}`);
  model.validate();
  console.log(`${object.kind} ${object.metadata.name}`);
}
