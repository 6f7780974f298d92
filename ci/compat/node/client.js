// KafkaJS for the suite. See README.md for what goes in and out.
//
// It has gzip of its own; the other codecs are plugged in as its users do, here with plain JavaScript and WebAssembly.
'use strict'

const { once } = require('node:events')
const { createRequire } = require('node:module')
const { createInterface } = require('node:readline')
// The packages are installed below .cache, not beside this file.
const load = createRequire(process.env.COMPAT_NODE_MODULES + '/')
const { CompressionCodecs, CompressionTypes, Kafka, logLevel } = load('kafkajs')
const lz4 = load('lz4js')
const snappy = load('snappyjs')
const { ZstdCodec } = load('zstd-codec')

const XERIAL_MAGIC = Buffer.from([0x82, 0x53, 0x4e, 0x41, 0x50, 0x50, 0x59, 0x00])
const XERIAL_HEADER_LENGTH = 16

// Java frames snappy in blocks, each behind its length; others send one plain block.
function decompressSnappy(data) {
  if (!data.subarray(0, XERIAL_MAGIC.length).equals(XERIAL_MAGIC)) return snappy.uncompress(data)
  const blocks = []
  for (let at = XERIAL_HEADER_LENGTH; at < data.length; ) {
    const end = at + 4 + data.readUInt32BE(at)
    blocks.push(snappy.uncompress(data.subarray(at + 4, end)))
    at = end
  }
  return Buffer.concat(blocks)
}

async function installCodecs() {
  const zstd = await new Promise(resolve => ZstdCodec.run(library => resolve(new library.Streaming())))
  CompressionCodecs[CompressionTypes.Snappy] = () => ({
    compress: async encoder => Buffer.from(snappy.compress(encoder.buffer)),
    decompress: async data => Buffer.from(decompressSnappy(data)),
  })
  CompressionCodecs[CompressionTypes.LZ4] = () => ({
    compress: async encoder => Buffer.from(lz4.compress(encoder.buffer)),
    decompress: async data => Buffer.from(lz4.decompress(data)),
  })
  CompressionCodecs[CompressionTypes.ZSTD] = () => ({
    compress: async encoder => Buffer.from(zstd.compress(encoder.buffer)),
    decompress: async data => Buffer.from(zstd.decompress(data)),
  })
}

const COMPRESSIONS = {
  none: CompressionTypes.None,
  gzip: CompressionTypes.GZIP,
  snappy: CompressionTypes.Snappy,
  lz4: CompressionTypes.LZ4,
  zstd: CompressionTypes.ZSTD,
}

const decode = text => (text === null ? null : Buffer.from(text, 'base64'))
const encode = data => (data === null || data === undefined ? null : data.toString('base64'))

async function produce(kafka, jobs) {
  for (const job of jobs) {
    const producer = kafka.producer({ idempotent: job.variant === 'idempotent' })
    await producer.connect()
    const messages = job.records.map(record => {
      const headers = {}
      for (const [name, value] of record.headers) (headers[name] ??= []).push(decode(value))
      return {
        partition: record.partition,
        key: decode(record.key),
        value: decode(record.value),
        timestamp: String(record.timestamp),
        headers,
      }
    })
    // Two requests, so that the second one has to go on where the first ended.
    const half = messages.length >> 1
    for (const part of [messages.slice(0, half), messages.slice(half)]) {
      await producer.send({ topic: job.topic, compression: COMPRESSIONS[job.compression], messages: part })
    }
    await producer.disconnect()
  }
}

// Reads as a member of a group, the only way KafkaJS has, until standard input ends.
async function consume(kafka, task, stdinEnd) {
  const session = task.session_ms ? { sessionTimeout: task.session_ms, heartbeatInterval: task.session_ms / 4 } : {}
  const consumer = kafka.consumer({ groupId: task.group, ...session })
  await consumer.connect()
  await consumer.subscribe({ topics: task.topics.map(topic => topic.topic), fromBeginning: true })
  const crashed = new Promise((_, reject) => {
    consumer.on(consumer.events.CRASH, event => reject(event.payload.error))
  })
  consumer.on(consumer.events.GROUP_JOIN, event => {
    const partitions = Object.values(event.payload.memberAssignment).flat()
    process.stdout.write(JSON.stringify({ event: 'assigned', partitions }) + '\n')
  })
  await consumer.run({
    eachBatch: async ({ batch }) => {
      for (const message of batch.messages) show(batch, message)
    },
  })
  await Promise.race([stdinEnd, crashed])
  // It commits what it was handed before it leaves.
  await consumer.disconnect()
}

function show(batch, message) {
  const headers = []
  for (const [name, values] of Object.entries(message.headers ?? {})) {
    for (const value of Array.isArray(values) ? values : [values]) headers.push([name, encode(value)])
  }
  const line = {
    topic: batch.topic,
    partition: batch.partition,
    offset: Number(message.offset),
    timestamp: Number(message.timestamp),
    key: encode(message.key),
    value: encode(message.value),
    headers,
    at: Date.now(),
  }
  process.stdout.write(JSON.stringify(line) + '\n')
}

async function main() {
  const lines = createInterface({ input: process.stdin })
  const stdinEnd = once(lines, 'close')
  const [line] = await once(lines, 'line')
  const task = JSON.parse(line)
  await installCodecs()
  const kafka = new Kafka({ brokers: [task.bootstrap], logLevel: logLevel.WARN })
  await (process.argv[2] === 'produce' ? produce(kafka, task.jobs) : consume(kafka, task, stdinEnd))
}

main().then(
  () => process.exit(0),
  error => {
    console.error(error)
    process.exit(1)
  },
)
