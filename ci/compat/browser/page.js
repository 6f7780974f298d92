// A browser for the suite: takes one command per line on standard input, and after each prints what the page shows.
//
//   {"go": URL}  {"type": TEXT}  {"click": TEXT OF A LINK}  {"picture": FILE}  {"look": true}
//   {"title": "…", "state": "…", "heading": "…", "figures": {NAME: TEXT}, "tables": {ID: [{COLUMN: TEXT}]}, "errors": [TEXT]}
'use strict'

const { createInterface } = require('node:readline')
const { createRequire } = require('node:module')
const puppeteer = createRequire(`${process.env.COMPAT_NODE_MODULES}/`)('puppeteer-core')

const PATIENCE_MS = 30000

// Runs in the page.
function shown() {
  const text = node => node.innerText.trim()
  const figures = {}
  for (const pair of document.querySelectorAll('dl.figures > div')) {
    figures[text(pair.querySelector('dt'))] = text(pair.querySelector('dd'))
  }
  const tables = {}
  for (const table of document.querySelectorAll('table')) {
    const columns = [...table.querySelectorAll('th')].map(text)
    const row = row => Object.fromEntries([...row.querySelectorAll('td')].map((cell, at) => [columns[at], text(cell)]))
    tables[table.id] = [...table.querySelectorAll('tbody tr')].map(row)
  }
  const heading = document.querySelector('main h2')
  const state = text(document.getElementById('state'))
  return { title: document.title, state, heading: heading && text(heading), figures, tables }
}

// Runs in the page: the link with this very text.
function linkTo(text) {
  return [...document.querySelectorAll('a')].find(link => link.innerText.trim() === text)
}

async function obey(page, command) {
  if (command.go) await page.goto(command.go, { timeout: PATIENCE_MS })
  if (command.type) await page.locator('#search').fill(command.type)
  if (command.click) await (await page.waitForFunction(linkTo, {}, command.click)).click()
  if (command.picture) await page.screenshot({ path: command.picture, fullPage: true })
}

async function main() {
  const browser = await puppeteer.launch({
    executablePath: process.env.CHROMIUM,
    // In a container there is no room for the sandbox's namespaces and little shared memory; the pages are our own.
    args: ['--no-sandbox', '--disable-dev-shm-usage'],
  })
  const page = await browser.newPage()
  page.setDefaultTimeout(PATIENCE_MS)
  const errors = []
  page.on('pageerror', error => errors.push(String(error)))
  page.on('console', message => message.type() === 'error' && errors.push(message.text()))
  page.on('requestfailed', request => errors.push(`${request.url()}: ${request.failure().errorText}`))
  for await (const line of createInterface({ input: process.stdin })) {
    await obey(page, JSON.parse(line))
    process.stdout.write(JSON.stringify({ ...(await page.evaluate(shown)), errors }) + '\n')
  }
  await browser.close()
}

main().then(
  () => process.exit(0),
  error => {
    console.error(error)
    process.exit(1)
  },
)
