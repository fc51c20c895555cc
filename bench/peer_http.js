// Node's cluster over HTTP, with the paths of apps.py, and what its users write around it: a worker that ends is replaced.
// node peer_http.js PORT WORKERS rr|none MAX_REQUESTS
// HUP: a rolling restart, each new worker listening before an old one is asked to go.  TTIN: one worker more.
'use strict'
const cluster = require('node:cluster')
const http = require('node:http')

const [port, size, policy, most] = [Number(process.argv[2]), Number(process.argv[3]), process.argv[4], Number(process.argv[5])]
const PATIENCE = 5000 // ms that a worker has to end once it was asked

function primary() {
  let wanted = size
  cluster.schedulingPolicy = policy === 'rr' ? cluster.SCHED_RR : cluster.SCHED_NONE
  const retire = (old) => {
    old.leaving = true
    if (old.isConnected()) old.disconnect()
    setTimeout(() => old.process.kill('SIGKILL'), PATIENCE).unref()
  }
  const replace = (old) => cluster.fork().once('listening', () => retire(old))
  cluster.on('message', (worker, message) => {
    if (message === 'enough' && !worker.leaving) {
      worker.leaving = true
      replace(worker)
    }
  })
  cluster.on('exit', (worker) => {
    if (!worker.leaving) cluster.fork()
  })
  process.on('SIGHUP', () => {
    for (const old of Object.values(cluster.workers)) {
      if (old.leaving) continue
      old.leaving = true
      replace(old)
    }
  })
  process.on('SIGTTIN', () => {
    wanted += 1
    cluster.fork()
  })
  for (const end of ['SIGTERM', 'SIGINT']) {
    process.on(end, () => {
      for (const worker of Object.values(cluster.workers)) worker.process.kill('SIGKILL')
      process.exit(0)
    })
  }
  for (let i = 0; i < wanted; i += 1) cluster.fork()
}

function worker() {
  const HELLO = 'Hello, world.\n'
  const sleeping = new Int32Array(new SharedArrayBuffer(4))
  const TIMES = { '/block': 100, '/busy': 20 } // ms for which the worker can do nothing else
  let served = 0
  const server = http.createServer((request, response) => {
    if (TIMES[request.url]) Atomics.wait(sleeping, 0, 0, TIMES[request.url])
    const body = request.url === '/pid' || request.url === '/busy' ? String(process.pid) : HELLO
    response.writeHead(200, { 'Content-Type': 'text/plain', 'Content-Length': body.length })
    response.end(body)
    served += 1
    if (most > 0 && served === most) process.send('enough')
  })
  server.keepAliveTimeout = 75000
  server.listen({ port, host: '127.0.0.1', backlog: 2048 })
}

if (cluster.isPrimary) primary()
else worker()
