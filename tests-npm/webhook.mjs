// Checks webhooks with the Standard Webhooks library. FILE holds a list of { secret, headers, body }; for each one
// prints true, or why it is refused. The timestamp has to be of now.
import { readFileSync } from "node:fs";
import { Webhook } from "standardwebhooks";

const verdicts = JSON.parse(readFileSync(process.argv[2], "utf8")).map(({ secret, headers, body }) => {
  try {
    new Webhook(secret).verify(body, headers);
    return true;
  } catch (error) {
    return String(error.message);
  }
});
process.stdout.write(JSON.stringify(verdicts));
