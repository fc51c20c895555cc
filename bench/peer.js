// Node's cluster with its own round robin: the primary accepts, and passes each connection to a worker.
// node peer.js WORKERS PORT; prints the port once all workers listen, and ends when its stdin does.
'use strict'
const cluster = require('node:cluster')
const net = require('node:net')

const ANSWER = Buffer.from(
  'HTTP/1.1 200 OK\r\n' +
    'Content-Type: text/plain\r\n' +
    'Content-Length: 14\r\n' +
    'Connection: close\r\n' +
    '\r\n' +
    'Hello, world.\n'
)

if (cluster.isPrimary) {
  const workers = Number(process.argv[2])
  let listening = 0
  cluster.schedulingPolicy = cluster.SCHED_RR
  cluster.on('listening', (worker, address) => {
    listening += 1
    if (listening === workers) process.stdout.write(`${address.port}\n`)
  })
  for (let i = 0; i < workers; i += 1) cluster.fork()
  process.stdin.on('end', () => process.exit(0))
  process.stdin.resume()
} else {
  const server = net.createServer((socket) => {
    let head = ''
    socket.on('data', (data) => {
      head += data.toString('latin1')
      if (head.includes('\r\n\r\n')) socket.end(ANSWER)
    })
    socket.on('error', () => socket.destroy())
  })
  server.listen({ port: Number(process.argv[3]), host: '127.0.0.1', backlog: 2048 })
}
