// Shows openapi.json to people.

const put = (parent, kind, text, name) => {
  const element = parent.appendChild(document.createElement(kind));
  if (text) element.textContent = text;
  if (name) element.className = name;
  return element;
};

const { info, servers, paths, components } = await (await fetch("/api/v1/openapi.json")).json();
document.getElementById("about").textContent = info.description;

function schemaOf({ responses }) {
  const [content] = Object.values(responses["200"]?.content ?? {});
  const schema = content?.schema ?? {};
  const name = (schema.$ref ?? schema.items?.$ref)?.split("/").at(-1);
  return name ? [name, Boolean(schema.items), components.schemas[name]] : [];
}

function fields(parent, schema) {
  const list = put(parent, "dl", "", "facts");
  for (const [name, field] of Object.entries(schema.properties)) {
    put(put(list, "dt"), "code", name);
    put(list, "dd", [[field.type ?? field.enum?.join(" | ")].flat().join(" or "), field.description].filter(Boolean).join(" · "));
  }
}

for (const [path, { get }] of Object.entries(paths)) {
  const section = put(document.getElementById("paths"), "section", "", "card");
  const title = put(section, "h2");
  const whole = servers[0].url + path;
  if (whole.includes("{")) put(title, "code", whole);
  else Object.assign(put(title, "a"), { href: whole }).append(put(title, "code", whole));
  put(section, "p", get.summary);
  if (get.description) put(section, "p", get.description, "note");
  if (get.parameters) fields(section, { properties: Object.fromEntries(get.parameters.map((p) => [p.name, { ...p.schema, description: p.description }])) });
  const [name, many, schema] = schemaOf(get);
  if (schema) {
    const details = put(section, "details");
    put(details, "summary", many ? `Answers with a list of ${name}` : `Answers with ${name}`);
    fields(details, schema);
  }
}
