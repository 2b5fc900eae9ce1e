// An OAuth server that is not ours: npm `oidc-provider` on a free port of loopback. It rotates refresh tokens
// and revokes the grant when one is used twice. A grant is seeded in process, so that no browser is needed.
//
//   node oidc-server.mjs [ACCESS_TOKEN_SECONDS]      default: 3600
//
// Prints one line of JSON when it listens and ends when its standard input closes. `oidc-provider` keeps its
// latest 1,000 records in memory, enough for some hundred rotations, and warns on standard error.

import { once } from 'node:events';
import { createServer } from 'node:http';
import process from 'node:process';

import Provider from 'oidc-provider';

const CLIENT_ID = 'evergrant-test';
// A secret that RFC 6749 §2.3.1 wants encoded, and that is obviously nobody's.
const CLIENT_SECRET = 'test-secret:100%&more+/=';
const ACCOUNT_ID = 'operator';
const SCOPE = 'openid offline_access';
const DAY_SECONDS = 24 * 3600;

const accessTokenSeconds = Number(process.argv[2] ?? 3600);
if (!Number.isInteger(accessTokenSeconds) || accessTokenSeconds < 1) {
  process.stderr.write('usage: node oidc-server.mjs [ACCESS_TOKEN_SECONDS]\n');
  process.exit(2);
}

// The issuer holds the port, so the port is taken first.
const server = createServer();
server.listen(0, '127.0.0.1');
await once(server, 'listening');
const issuer = `http://127.0.0.1:${server.address().port}`;

const provider = new Provider(issuer, {
  clients: [
    {
      client_id: CLIENT_ID,
      token_endpoint_auth_method: 'none',
      grant_types: ['authorization_code', 'refresh_token'],
      response_types: ['code'],
      redirect_uris: ['https://client.invalid/callback'],
    },
    ...['client_secret_basic', 'client_secret_post'].map((method) => ({
      client_id: `evergrant:${method}`,
      client_secret: CLIENT_SECRET,
      token_endpoint_auth_method: method,
      grant_types: ['client_credentials'],
      response_types: [],
      redirect_uris: [],
      scope: 'read write',
    })),
  ],
  scopes: ['openid', 'offline_access', 'read', 'write'],
  findAccount: (_context, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  issueRefreshToken: () => true,
  rotateRefreshToken: () => true,
  features: { devInteractions: { enabled: false }, clientCredentials: { enabled: true } },
  interactions: { url: () => '/no-browser' },
  ttl: {
    AccessToken: accessTokenSeconds,
    ClientCredentials: accessTokenSeconds,
    RefreshToken: DAY_SECONDS,
    Grant: DAY_SECONDS,
    IdToken: accessTokenSeconds,
  },
});
server.on('request', provider.callback());

async function seed() {
  const client = await provider.Client.find(CLIENT_ID);
  const grant = new provider.Grant({ accountId: ACCOUNT_ID, clientId: CLIENT_ID });
  grant.addOIDCScope(SCOPE);
  const grantId = await grant.save();
  const refreshToken = new provider.RefreshToken({
    accountId: ACCOUNT_ID,
    authTime: Math.floor(Date.now() / 1000),
    client,
    grantId,
    gty: 'authorization_code',
    scope: SCOPE,
  });
  return refreshToken.save();
}

process.stdin.resume();
process.stdin.on('close', () => process.exit(0));
process.stdin.on('end', () => process.exit(0));

const ready = {
  token_url: `${issuer}/token`,
  client_id: CLIENT_ID,
  client_secret: CLIENT_SECRET,
  refresh_token: await seed(),
  userinfo_url: `${issuer}/me`,
};
process.stdout.write(`${JSON.stringify(ready)}\n`);
