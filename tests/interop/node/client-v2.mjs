// TypeScript SDK 2.x client. Arguments: URL, mode (legacy, auto, or a version to pin), plan, answer (JSON).
import { part } from "../../fixtures/node/parts.mjs";
import { play } from "./steps.mjs";

const { Client, StreamableHTTPClientTransport } = part("@modelcontextprotocol/client");

const [url, mode, plan, answer] = process.argv.slice(2);
const versionNegotiation = { mode: ["legacy", "auto"].includes(mode) ? mode : { pin: mode } };
const options = { capabilities: { elicitation: { form: {}, url: {} } }, versionNegotiation };
const client = new Client({ name: "interop", version: "1.0.0" }, options);
const asked = [];
client.setRequestHandler("elicitation/create", (request) => {
  asked.push(request.params.message);
  return { action: "accept", content: JSON.parse(answer) };
});
const toolResult = Object.assign(({ content, isError }) => ({ content, isError: isError ?? false }), { schema: [] });
const transport = new StreamableHTTPClientTransport(new URL(url));
const version = () => client.getNegotiatedProtocolVersion();
await play(client, transport, JSON.parse(plan), { asked, toolResult, version });
