// What both TypeScript clients do: connect, make the steps of the plan in order, and print what came
// of each as one JSON line. A plan is a list of {do, ...}; see ../plans.py.
const refused = (error) => {
  if (typeof error.code !== "number") throw error; // a broken transport, not an answer
  return { refused: error.code, because: error.message.replace(/^MCP error -?\d+: /, "") };
};

export async function play(client, transport, plan, { asked, toolResult, version }) {
  const say = (value) => console.log(JSON.stringify(value));
  await client.connect(transport);
  say({ connected: { server: client.getServerVersion()?.name, version: version() } });
  const steps = {
    tools: async () => (await client.listTools()).tools.map((tool) => tool.name).sort(),
    call: async ({ name, arguments: given }) => toolResult(await client.callTool({ name, arguments: given })),
    progress: async ({ name, arguments: given }) => {
      const seen = [];
      const onprogress = (progress) => seen.push(progress);
      const result = await client.callTool({ name, arguments: given }, ...toolResult.schema, { onprogress });
      return { seen, result: toolResult(result) };
    },
    ask: async ({ name, arguments: given }) => {
      const result = toolResult(await client.callTool({ name, arguments: given }));
      return { asked: asked.splice(0), result };
    },
    read: async ({ uri }) => (await client.readResource({ uri })).contents,
    prompt: async ({ name, arguments: given }) => (await client.getPrompt({ name, arguments: given })).messages,
  };
  for (const step of plan) say({ [step.do]: await steps[step.do](step).catch(refused) });
  await transport.terminateSession?.();
  await client.close();
}
