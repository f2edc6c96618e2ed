// A task of 2025-11-25 from its creation to its result, on the TypeScript SDK 1.x. Argument: URL.
import { part } from "../../fixtures/node/parts.mjs";

const { Client } = part("@modelcontextprotocol/sdk/client/index.js");
const { StreamableHTTPClientTransport } = part("@modelcontextprotocol/sdk/client/streamableHttp.js");
const { CallToolResultSchema } = part("@modelcontextprotocol/sdk/types.js");

const client = new Client({ name: "interop", version: "1.0.0" });
const transport = new StreamableHTTPClientTransport(new URL(process.argv[2]));
await client.connect(transport);
const { tasks } = client.experimental;
const call = { name: "simulate-research-query", arguments: { topic: "bees", ambiguous: false } };
const seen = [];
let result;
for await (const message of tasks.callToolStream(call, CallToolResultSchema, { task: { ttl: 60_000 } })) {
  if (message.type === "result") result = message.result.content;
  else seen.push(`${message.type} ${message.task?.status ?? message.error?.message}`);
}
const listed = (await tasks.listTasks()).tasks.map((task) => task.status);
const unknown = await tasks.getTask("no-such-task").catch((error) => error.code);
console.log(JSON.stringify({ first: seen.at(0), last: seen.at(-1), result, listed, unknown }));
await transport.terminateSession();
await client.close();
