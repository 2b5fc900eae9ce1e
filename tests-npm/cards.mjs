// Reads Adaptive Cards with Microsoft's own library.
//   node cards.mjs check FILE        FILE holds a list of messages; prints what the parser has to say of each, as JSON
//   node cards.mjs page FILE         FILE holds one message; prints a page that shows it, light and dark side by side
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const packages = join(dirname(fileURLToPath(import.meta.url)), "node_modules");
const library = join(packages, "adaptivecards/dist/adaptivecards.min.js");
const markdown = join(packages, "markdown-it/dist/markdown-it.min.js");

// The colours that Teams gives to styles, as far as they are published.
const fonts = {
  default: { fontFamily: "'Segoe UI', 'DejaVu Sans', sans-serif", fontSizes: { small: 12, default: 14, medium: 16 } },
  monospace: { fontFamily: "Consolas, 'DejaVu Sans Mono', monospace" },
};
const style = (backgroundColor, text, subtle, borderColor) => ({
  backgroundColor, borderColor, foregroundColors: { default: { default: text, subtle } },
});
const themes = {
  light: {
    page: "#f5f5f5", button: "#242424",
    styles: {
      default: style("#ffffff", "#242424", "#616161"), emphasis: style("#f0f0f0", "#242424", "#616161"),
      attention: style("#fdf3f4", "#b10e1c", "#8a3038"), warning: style("#fef7b2", "#5c4813", "#6b5a2b"),
      good: style("#f1faf1", "#0e700e", "#3b6b3b"), accent: style("#ebf3fc", "#115ea3", "#37618a"),
    },
  },
  dark: {
    page: "#141414", button: "#ffffff",
    styles: {
      default: style("#292929", "#ffffff", "#adadad"), emphasis: style("#1f1f1f", "#ffffff", "#adadad"),
      attention: style("#3f1011", "#f1bbbc", "#d9a5a6"), warning: style("#4a3b04", "#fef7b2", "#d9d19a"),
      good: style("#052505", "#9fd89f", "#8fbf8f"), accent: style("#082338", "#b4d6fa", "#9dbddd"),
    },
  },
};

function check(messages) {
  const cards = createRequire(import.meta.url)(library);
  return messages.map((message) => {
    const context = new cards.SerializationContext(cards.Versions.v1_4);
    const card = new cards.AdaptiveCard();
    card.parse(message.attachments[0].content, context);
    const faults = [];
    for (let at = 0; at < context.eventCount; at += 1) faults.push(context.getEventAt(at).message);
    const results = card.validateProperties();
    for (const event of results.validationEvents) faults.push(event.message);
    return { version: card.version.toString(), items: card.getItemCount(), faults };
  });
}

function page(message) {
  const sides = Object.entries(themes).map(([name, theme]) => {
    const config = { fontTypes: fonts, fontFamily: fonts.default.fontFamily, containerStyles: theme.styles,
      spacing: { small: 6, default: 10, padding: 14 }, actions: { actionsOrientation: "horizontal", buttonSpacing: 8 },
      factSet: { title: { weight: "bolder", wrap: true, maxWidth: 170 }, value: { wrap: true }, spacing: 14 } };
    return { name, page: theme.page, button: theme.button, config };
  });
  return `<!doctype html><meta charset="utf-8"><title>wait</title>
<style>
  body { margin: 0; display: flex; width: 1200px; align-items: stretch }
  section { box-sizing: border-box; width: 600px; padding: 16px }
  .ac-adaptiveCard { border-radius: 4px; box-shadow: 0 0 2px #0006; overflow: hidden }
  button { background: none; border: 1px solid #8886; border-radius: 4px; padding: 6px 14px; font: 600 14px 'DejaVu Sans' }
  p { margin: 0 } a { color: inherit }
</style>
<script src="${pathToFileURL(library)}"></script><script src="${pathToFileURL(markdown)}"></script>
<body><script>
  const md = window.markdownit();
  AdaptiveCards.AdaptiveCard.onProcessMarkdown = (text, result) => {
    result.outputHtml = md.render(text); result.didProcess = true;
  };
  const message = ${JSON.stringify(message).replaceAll("<", "\\u003c")};
  for (const side of ${JSON.stringify(sides)}) {
    const section = document.createElement("section");
    section.style.background = side.page;
    section.id = side.name;
    document.body.append(section);
    const card = new AdaptiveCards.AdaptiveCard();
    card.hostConfig = new AdaptiveCards.HostConfig(side.config);
    card.parse(message.attachments[0].content);
    section.append(card.render());
    for (const button of section.querySelectorAll("button")) button.style.color = side.button;
  }
  const links = document.querySelectorAll("a").length;
  document.title = JSON.stringify({ height: Math.ceil(document.body.getBoundingClientRect().height), links });
</script>`;
}

const [, , what, file] = process.argv;
const input = JSON.parse(readFileSync(file, "utf8"));
process.stdout.write(what === "check" ? JSON.stringify(check(input)) : page(input));
