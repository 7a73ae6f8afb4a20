// SPDX-License-Identifier: Apache-2.0
// Servers and clients of Node: `node.mjs serve-http ADDRESS PORT`, `node.mjs ask-http URL`, and the same with http2.
import assert from 'node:assert/strict';
import http from 'node:http';
import http2 from 'node:http2';

const [role, target, port] = process.argv.slice(2);

// === servers ===

function collect(stream) {
  return new Promise((resolve, reject) => {
    const parts = [];
    stream.on('data', (part) => parts.push(part));
    stream.on('end', () => resolve(Buffer.concat(parts)));
    stream.on('error', reject);
  });
}

async function echo(request, response) {
  const body = await collect(request);
  if (request.url === '/hints') {
    response.writeEarlyHints({ link: '</style.css>; rel=preload; as=style' });
  }
  if (request.method === 'HEAD') {
    response.end();
    return;
  }
  response.writeHead(200, { Trailer: 'X-Sum, X-Got' });
  response.write(body);
  response.addTrailers({ 'X-Sum': String(body.length), 'X-Got': request.trailers['x-last'] ?? 'none' });
  response.end();
}

function serveHttp() {
  const server = http.createServer({ keepAliveTimeout: 60_000 }, echo);
  server.on('checkContinue', (request, response) => {
    response.writeContinue();
    echo(request, response);
  });
  server.on('upgrade', (request, socket, head) => {
    socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n');
    socket.write(head);
    socket.pipe(socket);
  });
  server.listen(Number(port), target, () => console.log('listening'));
}

function serveHttp2() {
  const server = http2.createServer();
  server.on('stream', async (stream) => {
    const body = await collect(stream);
    stream.respond({ ':status': 200 }, { waitForTrailers: true });
    stream.on('wantTrailers', () => stream.sendTrailers({ 'x-sum': String(body.length) }));
    stream.end(body);
  });
  server.listen(Number(port), target, () => console.log('listening'));
}

// === clients ===

function call(path, options = {}, send = (request) => request.end()) {
  return new Promise((resolve, reject) => {
    const informed = [];
    const request = http.request(new URL(path, target), options);
    request.on('information', (information) => informed.push(information.statusCode));
    request.on('continue', () => informed.push(100));
    request.on('error', reject);
    request.on('response', async (response) => {
      const body = await collect(response).catch(reject);
      const { statusCode: status, trailers } = response;
      resolve({ status, body, trailers, informed, reused: request.reusedSocket });
    });
    send(request);
  });
}

async function agents() {
  const one = new http.Agent({ keepAlive: true, maxSockets: 1 });
  for (let number = 0; number < 100; number += 1) {
    const answer = await call('/', { agent: one });
    assert.equal(answer.status, 200);
    assert.equal(answer.reused, number > 0, `request ${number} of a kept connection`);
  }
  one.destroy();
  const eight = new http.Agent({ keepAlive: true, maxSockets: 8 });
  const bodies = Array.from({ length: 400 }, (_, number) => Buffer.alloc(number * 50, `${number} `));
  const posts = bodies.map((body) => call('/', { agent: eight, method: 'POST' }, (request) => request.end(body)));
  for (const [number, answer] of (await Promise.all(posts)).entries()) {
    assert.ok(answer.body.equals(bodies[number]), `body ${number}`);
  }
  eight.destroy();
}

async function messages() {
  const chunks = await call('/', { method: 'POST', headers: { Trailer: 'X-Last' } }, (request) => {
    request.write('a chunk, ');
    request.write('and another');
    request.addTrailers({ 'X-Last': 'of the request' });
    request.end();
  });
  assert.equal(String(chunks.body), 'a chunk, and another');
  assert.deepEqual({ ...chunks.trailers }, { 'x-sum': '20', 'x-got': 'of the request' });

  const headers = { Expect: '100-continue', 'Content-Length': 4 };
  const asked = await call('/', { method: 'PUT', headers }, (request) => {
    request.flushHeaders();
    request.on('continue', () => request.end('four'));
  });
  assert.deepEqual([String(asked.body), asked.informed.includes(100)], ['four', true]);

  const hinted = await call('/hints');
  assert.deepEqual([hinted.status, hinted.informed], [200, [103]]);

  const head = await call('/', { method: 'HEAD' });
  assert.deepEqual([head.status, head.body.length], [200, 0]);
}

function upgrade() {
  return new Promise((resolve, reject) => {
    const request = http.request(target, { headers: { Connection: 'Upgrade', Upgrade: 'echo' } });
    request.on('error', reject);
    request.on('response', (response) => reject(new Error(`${response.statusCode} instead of 101`)));
    request.on('upgrade', (response, socket, early) => {
      assert.equal(early.length, 0);
      socket.on('error', reject);
      collect(socket).then((heard) => resolve(String(heard)));
      socket.write('bytes of ');
      socket.end('another protocol');
    });
    request.end();
  });
}

async function askHttp() {
  await agents();
  await messages();
  assert.equal(await upgrade(), 'bytes of another protocol');
}

async function askHttp2() {
  const session = http2.connect(target);
  const post = (body) =>
    new Promise((resolve, reject) => {
      // Of an address of IPv6 Node makes an authority without brackets, which a relay refuses.
      const stream = session.request({ ':method': 'POST', ':authority': new URL(target).host });
      let sum;
      stream.on('trailers', (trailers) => (sum = trailers['x-sum']));
      stream.on('error', reject);
      collect(stream).then((answer) => resolve([answer.equals(body), sum]), reject);
      stream.end(body);
    });
  const bodies = Array.from({ length: 50 }, (_, number) => Buffer.alloc(number * 5_000, `${number} `));
  for (const [number, answer] of (await Promise.all(bodies.map(post))).entries()) {
    assert.deepEqual(answer, [true, String(bodies[number].length)], `stream ${number}`);
  }
  session.close();
}

const roles = { 'serve-http': serveHttp, 'serve-http2': serveHttp2, 'ask-http': askHttp, 'ask-http2': askHttp2 };
await roles[role]();
