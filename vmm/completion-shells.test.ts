/** The completion scripts in the shells themselves, as a person's Tab has them. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { until } from '../devices/mtty/testing/until.js';
import { COMMANDS } from './cli-help.js';
import { completionScript, SHELLS, type Shell } from './completion.js';
import { atTerminal } from './testing/terminal.js';

const folder = mkdtempSync(join(tmpdir(), 'shells-'));
afterAll(() => rmSync(folder, { recursive: true }));
const at = (name: string) => join(folder, name);
mkdirSync(at('kernels'));
mkdirSync(at('functions'));
for (const name of ['kernel.img', 'a file']) writeFileSync(at(name), '');
for (const shell of SHELLS) writeFileSync(at(`tsvisor.${shell}`), completionScript(shell, COMMANDS));
writeFileSync(at('functions/_tsvisor'), completionScript('zsh', COMMANDS));

const required = (process.env.TSVISOR_REQUIRED_TIERS ?? '').split(',').includes('shells');
const isInstalled = (shell: Shell) => spawnSync(shell, ['-c', ':']).status === 0;
/** A shell that is not installed is left out, and said to be; TSVISOR_REQUIRED_TIERS makes that a failure. */
function requireShell(shell: Shell, skip: (text: string) => void): void {
  if (isInstalled(shell)) return;
  const text = `${shell} is not installed (Debian: apt-get install ${shell})`;
  if (required) throw new Error(`${text}, but TSVISOR_REQUIRED_TIERS asks for shells`);
  skip(text);
}

/** What zsh and fish offer for the word at the end of a line: whole words, sorted. */
const OFFERS: Readonly<Record<string, readonly string[]>> = {
  'tsvisor ru': ['run'],
  'tsvisor m': ['man', 'mdev'],
  'tsvisor help r': ['run'],
  'tsvisor --vers': ['--version'],
  'tsvisor run --mem': ['--memory'],
  'tsvisor serve --mem': [],
  'tsvisor serve --trust': ['--trust-client'],
  'tsvisor run --net pas': ['passt', 'passt-socket:'],
  'tsvisor run --net=pas': ['--net=passt', '--net=passt-socket:'],
  'tsvisor run --cpus 2 --log-level w': ['warn'],
  'tsvisor run --sandbox st': ['strict'],
  'tsvisor run --device vgpu-l': ['vgpu-large'],
  'tsvisor run --device virtio-net,m': ['virtio-net,mac=', 'virtio-net,mtu='],
  'tsvisor run --device=virtio-net,mt': ['--device=virtio-net,mtu='],
  'tsvisor run --device virtio-net,net=responder,mt': ['virtio-net,net=responder,mtu='],
  'tsvisor run --device vfio-user:/s,tr': ['vfio-user:/s,trust='],
  'tsvisor run --device virtio-net --device mtty-2,po': ['mtty-2,port0=', 'mtty-2,port1='],
  'tsvisor run --device 0000:01:00.0,bi': ['0000:01:00.0,bind='],
  'tsvisor serve vgpu-s': ['vgpu-small'],
  'tsvisor serve vgpu-small,x': ['vgpu-small,xres='],
  'tsvisor serve vgpu-small --so': ['--socket'],
  'tsvisor run --kernel ker': ['kernel.img', 'kernels'],
  'tsvisor run --kernel=ker': ['--kernel=kernel.img', '--kernel=kernels'],
  'tsvisor run --kernel a': ['a file'],
  'tsvisor run --serial file:ker': ['file:kernel.img', 'file:kernels'],
  'tsvisor run --serial ': ['file:', 'none', 'pty', 'stdio', 'unix:'],
  'tsvisor run --api ': ['unix:'],
  'tsvisor run --api unix:ker': ['unix:kernel.img', 'unix:kernels'],
  'tsvisor ctl ker': ['kernel.img', 'kernels'],
  'tsvisor mdev ': ['create', 'list', 'remove'],
  'tsvisor mdev create --par': ['--parent'],
  'tsvisor mdev create --parent list --u': ['--uuid'],
  'tsvisor bind --driver v': ['vfio-pci'],
  'tsvisor completion ': ['bash', 'fish', 'zsh'],
};
const LINES = Object.keys(OFFERS);

/** By line: the words that a shell printed below `== LINE`; after a space, without options, which are offered as well. */
function offersIn(output: string): Record<string, string[]> {
  const parts = output.split(/^== /m).slice(1);
  return Object.fromEntries(
    parts.map((part) => {
      const [line = '', ...words] = part.trimEnd().split('\n');
      const plain = words.map((word) => word.split('\t')[0]!.replace(/\/$/, '').replaceAll('\\', ''));
      return [line, plain.filter((word) => !line.endsWith(' ') || !word.startsWith('-')).sort()];
    }),
  );
}

/** Its completion system in an interactive zsh at a terminal of zsh's own; `compadd` gets every word that is offered. */
const ZSH_LISTENS = `
PS1=
fpath=($PWD/functions $fpath)
autoload -U compinit
compinit -u -D
setopt no_automenu no_beep
LISTMAX=10000
compadd() {
  local -a offered
  local word
  if [[ \${@[(I)-[OAD]*]} -eq 0 ]]; then
    builtin compadd -O offered "$@"
    for word in $offered; do print -r -- "$IPREFIX$word" >> offers; done
  fi
  builtin compadd "$@"
}
complete-all() {
  local line
  for line in "\${(@f)$(<lines)}"; do
    print -r -- "== $line" >> offers
    BUFFER=$line CURSOR=$#line
    zle complete-word
  done
  : > done
}
zle -N complete-all
bindkey '^X' complete-all
print READ""Y
`;
const ZSH_TYPES = `
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell 'source ./listens'
while zpty -r shell line; do [[ $line == *READY* ]] && break; done
zpty -w -n shell $'\\x18'
repeat 600; do
  [[ -e done ]] && break
  sleep 0.05
  while zpty -r -t shell line; do :; done
done
zpty -d shell
`;

test('zsh completes every line', { timeout: 60_000 }, ({ skip }) => {
  requireShell('zsh', skip);
  writeFileSync(at('listens'), ZSH_LISTENS);
  writeFileSync(at('types'), ZSH_TYPES);
  writeFileSync(at('lines'), LINES.join('\n'));
  const { stderr, status } = spawnSync('zsh', ['-f', './types'], { cwd: folder, encoding: 'utf8' });
  expect([stderr, status]).toEqual(['', 0]);
  expect(offersIn(readFileSync(at('offers'), 'utf8'))).toEqual(OFFERS);
});

test('fish completes every line', { timeout: 60_000 }, ({ skip }) => {
  requireShell('fish', skip);
  const script = 'source ./tsvisor.fish; for line in $argv; echo "== $line"; complete -C $line; end';
  const args = ['--no-config', '-c', script, '--', ...LINES];
  const { stdout, stderr, status } = spawnSync('fish', args, { cwd: folder, encoding: 'utf8' });
  expect([stderr, status]).toEqual(['', 0]);
  expect(offersIn(stdout)).toEqual(OFFERS);
});

/** What Tab makes of a line at bash's own prompt. */
const BASH_TABS: Readonly<Record<string, string>> = {
  'tsvisor ru': 'tsvisor run ',
  'tsvisor run --mem': 'tsvisor run --memory ',
  'tsvisor run --net=respo': 'tsvisor run --net=responder ',
  'tsvisor run --net passt-s': 'tsvisor run --net passt-socket:',
  'tsvisor run --device virtio-net,mt': 'tsvisor run --device virtio-net,mtu=',
  'tsvisor run --device vfio-user:/s,tr': 'tsvisor run --device vfio-user:/s,trust=',
  'tsvisor run --serial file:kernel.': 'tsvisor run --serial file:kernel.img ',
  'tsvisor run --kernel=kernel.': 'tsvisor run --kernel=kernel.img ',
  'tsvisor run --kernel a': 'tsvisor run --kernel a\\ file ',
  'tsvisor run --api ': 'tsvisor run --api unix:',
  'tsvisor mdev cr': 'tsvisor mdev create ',
  'tsvisor serve vgpu-s': 'tsvisor serve vgpu-small ',
  'tsvisor help ser': 'tsvisor help serve ',
};

test('bash completes what is typed at its prompt', { timeout: 60_000 }, async () => {
  writeFileSync(
    at('bashrc'),
    `PS1=; source ./tsvisor.bash
    took() { printf '%s\\n' "$READLINE_LINE" >> tabs; READLINE_LINE=; }
    bind -x '"\\C-t": took'`,
  );
  using bash = atTerminal(['--noprofile', '--rcfile', 'bashrc', '-i'], { command: 'bash', cwd: folder });
  const tabs = () => {
    try {
      return readFileSync(at('tabs'), 'utf8').split('\n').slice(0, -1);
    } catch {
      return [];
    }
  };
  const typed = Object.keys(BASH_TABS);
  for (const [i, line] of typed.entries()) {
    await bash.screen.types(`${line}\t\x14`);
    await until(() => tabs().length > i);
  }
  expect(Object.fromEntries(tabs().map((line, i) => [typed[i], line]))).toEqual(BASH_TABS);
});

describe.each(SHELLS)('the script for %s', (shell) => {
  test('is one that it can parse', ({ skip }) => {
    requireShell(shell, skip);
    const { status, stderr } = spawnSync(shell, ['-n', at(`tsvisor.${shell}`)], { encoding: 'utf8' });
    expect([stderr, status]).toEqual(['', 0]);
  });
});
