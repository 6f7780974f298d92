// The status page: asks /api/v1/ every two seconds and shows the answer. Names come from clients, so they only ever become
// text, never markup.
'use strict'

const PERIOD_MS = 2000
const view = document.getElementById('view')
const state = document.getElementById('state')
const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 })
const short = new Intl.NumberFormat('en', { maximumSignificantDigits: 3, notation: 'compact' })

// What is looked for in the list that is shown, and where its page begins.
let search = ''
let pages = ['']
let timer
// Counts the views, so that a late answer to an earlier one is dropped.
let turn = 0

function element(name, attributes, ...children) {
  const made = document.createElement(name)
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value)
  made.append(...children.filter(child => child !== null && child !== undefined))
  return made
}

const link = (href, text) => element('a', { href }, text)
const known = (value, show) => (value === null || value === undefined ? '–' : show(value))
const count = value => known(value, whole.format)
const rate = value => known(value, value => (value === 0 ? '0' : short.format(value)))

function bytes(value) {
  return known(value, value => {
    const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB']
    let unit = 0
    while (value >= 1024 && unit < units.length - 1) {
      value /= 1024
      unit += 1
    }
    return `${unit === 0 ? whole.format(value) : value.toFixed(1)} ${units[unit]}`
  })
}

function duration(seconds) {
  if (seconds < 120) return `${seconds} s`
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`
  return seconds < 172800 ? `${Math.floor(seconds / 3600)} h` : `${Math.floor(seconds / 86400)} days`
}

function figures(pairs) {
  const list = element('dl', { class: 'figures' })
  for (const [name, value] of pairs) list.append(element('div', {}, element('dt', {}, name), element('dd', {}, value)))
  return list
}

// Columns are [title, cell of an item, whether it is a number].
function table(id, columns, items) {
  const side = isNumber => (isNumber ? { class: 'number' } : {})
  const head = columns.map(([title, , isNumber]) => element('th', { scope: 'col', ...side(isNumber) }, title))
  const rows = items.map(item =>
    element('tr', {}, ...columns.map(([, cell, isNumber]) => element('td', side(isNumber), cell(item)))),
  )
  if (rows.length === 0) return element('p', { id, class: 'soft' }, 'None.')
  const body = element('table', { id }, element('thead', {}, element('tr', {}, ...head)), element('tbody', {}, ...rows))
  return element('div', { class: 'table' }, body)
}

const traffic = [
  ['Records in/s', item => rate(item.rates.produce_records_per_s), true],
  ['In/s', item => bytes(item.rates.produce_bytes_per_s), true],
  ['Records out/s', item => rate(item.rates.fetch_records_per_s), true],
  ['Out/s', item => bytes(item.rates.fetch_bytes_per_s), true],
]

const heading = text => element('h2', {}, text)

const unreadable = values =>
  Object.keys(values).length === 0
    ? []
    : [
        heading('Metastore values that this broker cannot read'),
        ...Object.entries(values).map(([key, reason]) => element('p', { class: 'wrong' }, `${key}: ${reason}`)),
      ]

function showOverview(answer) {
  const load = shard => {
    const part = Math.min(shard.load, 1)
    const text = `${(100 * part).toFixed(0)} %`
    return element('span', {}, element('meter', { value: part, 'aria-label': 'load' }), ` ${text}`)
  }
  const leaderless = answer.leaderless === 0 ? '0' : element('span', { class: 'wrong' }, count(answer.leaderless))
  const refused = answer.quarantined.length
  const quarantined = refused === 0 ? '0' : element('span', { class: 'wrong' }, count(refused))
  const refusals = [
    heading('Quarantined partitions'),
    table(
      'quarantined',
      [
        ['Topic', item => item.topic],
        ['Partition', item => String(item.partition), true],
        ['Why', item => item.why],
      ],
      answer.quarantined,
    ),
  ]
  return [
    figures([
      ['Cluster', answer.cluster_id],
      ['This broker', String(answer.broker_id)],
      ['Version', answer.version],
      ['Running for', duration(answer.uptime_s)],
      ['Topics', count(answer.topics)],
      ['Partitions', count(answer.partitions)],
      ['Without leader', leaderless],
      ['Quarantined here', quarantined],
      ['Size', bytes(answer.size_bytes)],
      ['Records in/s', rate(answer.rates.produce_records_per_s)],
      ['Records out/s', rate(answer.rates.fetch_records_per_s)],
    ]),
    ...unreadable(answer.unreadable),
    ...(refused === 0 ? [] : refusals),
    heading('Shards of this broker'),
    table(
      'shards',
      [
        ['Shard', shard => String(shard.shard), true],
        ['Load', load],
        ['Connections', shard => count(shard.connections), true],
        ['Partitions', shard => count(shard.partitions), true],
        ['Requests/s', shard => rate(shard.requests_per_s), true],
        ...traffic,
        ['Recent records', shard => bytes(shard.memory_bytes), true],
        ['Uploads', shard => count(shard.puts_in_flight), true],
      ],
      answer.shards,
    ),
    heading('Brokers'),
    table(
      'brokers',
      [
        ['Broker', broker => String(broker.broker_id), true],
        ['Address', broker => `${broker.host}:${broker.port}`],
        ['Rack', broker => known(broker.rack, String)],
        ['Shards', broker => count(broker.shards), true],
        ['Leads', broker => count(broker.leads), true],
      ],
      answer.brokers,
    ),
  ]
}

function list(kind, columns, answer) {
  const buttons = []
  const button = (text, action) => {
    const made = element('button', { type: 'button' }, text)
    made.addEventListener('click', () => {
      action()
      look()
    })
    buttons.push(made)
  }
  if (pages.length > 1) button('Previous', () => pages.pop())
  if (answer.next !== null) button('Next', () => pages.push(answer.next))
  const matching = element('p', { class: 'soft' }, `${count(answer.matching)} ${kind}`)
  return [table(kind, columns, answer.items), matching, ...buttons]
}

const topicColumns = [
  ['Topic', topic => link(`#/topics/${encodeURIComponent(topic.name)}`, topic.name)],
  ['Partitions', topic => count(topic.partitions), true],
  ['Without leader', topic => count(topic.leaderless), true],
  ['Size', topic => bytes(topic.size_bytes), true],
  ['Offsets', topic => count(topic.offsets), true],
  ...traffic,
]

const groupColumns = [
  ['Group', group => link(`#/groups/${encodeURIComponent(group.id)}`, group.id)],
  ['State', group => group.state],
  ['Type', group => group.type],
  ['Assignor', group => group.assignor || '–'],
  ['Members', group => count(group.members), true],
  ['Lag', group => count(group.lag), true],
]

function showTopic(answer) {
  return [
    heading(`Topic ${answer.topic.name}`),
    table('topic', topicColumns.slice(1), [answer.topic]),
    heading('Partitions'),
    table(
      'partitions',
      [
        ['Partition', partition => String(partition.partition), true],
        ['Broker', partition => known(partition.leader, String), true],
        ['Shard', partition => known(partition.shard, String), true],
        ['Epoch', partition => known(partition.leader_epoch, String), true],
        ['Start', partition => count(partition.start_offset), true],
        ['End', partition => count(partition.end_offset), true],
        ['Size', partition => bytes(partition.size_bytes), true],
      ],
      answer.partitions,
    ),
  ]
}

function showGroup(answer) {
  return [
    heading(`Group ${answer.group.id}`),
    table('group', groupColumns.slice(1), [answer.group]),
    heading('Members'),
    table(
      'members',
      [
        ['Member', member => member.id],
        ['Static', member => member.instance_id ?? '–'],
        ['Client', member => member.client_id],
        ['Host', member => member.host],
        ['Partitions', member => count(member.partitions), true],
      ],
      answer.members,
    ),
    heading('Partitions'),
    table(
      'assignment',
      [
        ['Topic', partition => link(`#/topics/${encodeURIComponent(partition.topic)}`, partition.topic)],
        ['Partition', partition => String(partition.partition), true],
        ['Committed', partition => count(partition.committed_offset), true],
        ['End', partition => count(partition.end_offset), true],
        ['Lag', partition => count(partition.lag), true],
        ['Member', partition => partition.member ?? '–'],
      ],
      answer.partitions,
    ),
  ]
}

// What the part of the address after # asks for: the question, how to show the answer, whether it is a list.
function wanted() {
  const [kind = '', ...rest] = location.hash.replace(/^#\/?/, '').split('/')
  const name = rest.join('/')
  const listing = () => `${kind}?${new URLSearchParams({ contains: search, after: pages.at(-1) })}`
  switch (kind) {
    case '':
      return ['overview', showOverview, null]
    case 'topics':
      return name ? [`topics/${name}`, showTopic, null] : [listing(), answer => list(kind, topicColumns, answer), kind]
    case 'groups':
      return name ? [`groups/${name}`, showGroup, null] : [listing(), answer => list(kind, groupColumns, answer), kind]
    default:
      return [kind, () => [], null]
  }
}

function say(text, isWrong) {
  state.textContent = text
  state.classList.toggle('wrong', isWrong)
}

async function look() {
  clearTimeout(timer)
  turn += 1
  const mine = turn
  const [question, show] = wanted()
  try {
    const response = await fetch(`/api/v1/${question}`)
    const answer = await response.json()
    if (mine !== turn) return
    if (response.ok) {
      document.getElementById('answer').replaceChildren(...show(answer))
      say(`as of ${new Date().toLocaleTimeString()}`, false)
    } else {
      say(answer.error, true)
    }
  } catch (error) {
    if (mine !== turn) return
    say(`the broker does not answer: ${error.message}`, true)
  }
  timer = setTimeout(look, PERIOD_MS)
}

// A new view: its frame stays while the answers in it come and go, so that nobody loses what they type.
function turnTo() {
  search = ''
  pages = ['']
  const [, , listed] = wanted()
  const children = [element('div', { id: 'answer' }, element('p', { class: 'soft' }, 'Looking…'))]
  if (listed) {
    const input = element('input', { type: 'search', id: 'search', placeholder: `part of the name`, 'aria-label': 'Search' })
    input.addEventListener('input', () => {
      search = input.value
      pages = ['']
      look()
    })
    const form = element('form', {}, input)
    form.addEventListener('submit', event => event.preventDefault())
    children.unshift(form)
  }
  view.replaceChildren(...children)
  for (const anchor of document.querySelectorAll('nav a')) {
    const kind = location.hash.split('/')[1] ?? ''
    if (anchor.getAttribute('href') === `#/${kind}`) anchor.setAttribute('aria-current', 'page')
    else anchor.removeAttribute('aria-current')
  }
  look()
}

window.addEventListener('hashchange', turnTo)
turnTo()
