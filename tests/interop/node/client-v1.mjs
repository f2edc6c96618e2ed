// TypeScript SDK 1.x client. Arguments: URL, mode (sse: HTTP+SSE of 2024-11-05), plan, answer (JSON).
import { part } from "../../fixtures/node/parts.mjs";
import { play } from "./steps.mjs";

const { Client } = part("@modelcontextprotocol/sdk/client/index.js");
const { StreamableHTTPClientTransport } = part("@modelcontextprotocol/sdk/client/streamableHttp.js");
const { SSEClientTransport } = part("@modelcontextprotocol/sdk/client/sse.js");
const { ElicitRequestSchema } = part("@modelcontextprotocol/sdk/types.js");

const [url, mode, plan, answer] = process.argv.slice(2);
const client = new Client({ name: "interop", version: "1.0.0" }, { capabilities: { elicitation: { form: {}, url: {} } } });
const asked = [];
client.setRequestHandler(ElicitRequestSchema, (request) => {
  asked.push(request.params.message);
  return { action: "accept", content: JSON.parse(answer) };
});
const toolResult = Object.assign(({ content, isError }) => ({ content, isError: isError ?? false }), {
  schema: [undefined],
});
const transport = new (mode === "sse" ? SSEClientTransport : StreamableHTTPClientTransport)(new URL(url));
const version = () => transport.protocolVersion ?? transport._protocolVersion;
await play(client, transport, JSON.parse(plan), { asked, toolResult, version });
