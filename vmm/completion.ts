/** Scripts that complete `tsvisor` commands in a shell, made from the table of commands. */
import { DEVICES } from './cli-device-help.js';
import type { Command, OptionRow } from './command-line.js';

export const SHELLS = ['bash', 'zsh', 'fish'] as const;
export type Shell = (typeof SHELLS)[number];

/** What a value is completed with. */
interface Source {
  readonly words: readonly string[];
  readonly hasFiles: boolean;
  readonly hasFunctions: boolean;
  /** Options of a device follow after commas. */
  readonly hasDeviceOptions: boolean;
}

const FILES = /FILE|PATH|MODULE|SOCKET/;
const TAKES_DEVICE = /DEVICE/;

const sourceOf = (value: string, words: readonly string[] = []): Source => ({
  words: [...(TAKES_DEVICE.test(value) ? DEVICES.flatMap(({ names }) => names) : []), ...words],
  hasFiles: FILES.test(value) && words.length === 0 && !TAKES_DEVICE.test(value),
  hasFunctions: /DEVICE|ADDRESS/.test(value),
  hasDeviceOptions: TAKES_DEVICE.test(value),
});

/** All commands, each after the one that has it. */
const flat = (commands: readonly Command[]): readonly Command[] =>
  commands.flatMap((command) => [command, ...flat(command.commands ?? [])]);

const lastWord = ({ name }: Command) => name.slice(name.lastIndexOf(' ') + 1);
const inner = (commands: readonly Command[] = []) => commands.map(lastWord);
const valued = ({ options }: Command) => options.filter(({ value }) => value !== undefined);
/** For a shell; no word of the table has a quote in it. */
const quoted = (words: readonly string[]) => `'${words.join(' ')}'`;
const optionNames = ({ options }: Command) =>
  options.flatMap(({ name, short }) => [`--${name}`, ...(short === undefined ? [] : [`-${short}`])]);

/** The script for a shell. */
export function completionScript(shell: Shell, commands: readonly Command[]): string {
  return { bash: bashScript, zsh: zshScript, fish: fishScript }[shell](commands);
}

/** A branch for each command and each of its options with a value: `run:--net`, `run:` for the argument. */
function branches(commands: readonly Command[], action: (source: Source) => string) {
  const branch = (name: string, source: Source) => `    '${name}') ${action(source)} ;;`;
  const each = flat(commands);
  const ofOptions = each.flatMap((command) =>
    valued(command).map(({ name, value = '', words }: OptionRow) =>
      branch(`${command.name}:--${name}`, sourceOf(value, words)),
    ),
  );
  const ofArguments = each.flatMap(({ name, commands: own, argument, words }) =>
    own === undefined && argument !== undefined ? [branch(`${name}:`, sourceOf(argument, words))] : [],
  );
  return { ofOptions, ofArguments };
}

/** The end of bash's and zsh's functions: what completes the option, or else the argument, or else a name. */
function dispatch(commands: readonly Command[]): string {
  const { ofOptions, ofArguments } = branches(commands, (source) => {
    const calls = [
      source.hasDeviceOptions ? '_tsvisor_device' : '',
      source.words.length > 0 ? `_tsvisor_reply ${quoted(source.words)}` : '',
      source.hasFunctions ? '_tsvisor_functions' : '',
      source.hasFiles ? '_tsvisor_files' : '',
    ];
    return calls.filter(Boolean).join('; ') || ':';
  });
  return `  case $command:$option in
${[...ofOptions, ...ofArguments].join('\n')}
    *) case $command: in
${ofArguments.join('\n')}
    *) _tsvisor_reply "$(_tsvisor_words "$command")" ;;
    esac ;;
  esac`;
}

const deviceBranches = (lines: (options: readonly string[]) => string): string[] => [
  ...DEVICES.flatMap(({ names, options }) =>
    names.map((name) => `    ${name}${name.endsWith(':') ? '*' : ''}) ${lines(options)} ;;`),
  ),
  `    *) ${lines(DEVICES.find(({ names }) => names.length === 0)?.options ?? [])} ;;`,
];

const optionsOf = (options: readonly string[]) => [...options, 'slot', 'interface'].map((name) => `${name}=`);
const deviceOptions = (options: readonly string[]) => quoted(optionsOf(options));

/** Commands as a `case` finds them: what has been found, and the next word. */
const steps = (commands: readonly Command[]) =>
  flat(commands)
    .map(({ name }) => `' ${name}'`)
    .join(' | ');

const optionCases = (commands: readonly Command[]) => [
  `    '') echo ${quoted([...inner(commands), '--help', '--version'])} ;;`,
  ...flat(commands).map(
    (command) =>
      `    '${command.name}') echo ${quoted([...inner(command.commands), ...optionNames(command)])} ;;`,
  ),
];

/** Readline splits words at `=` and `:`, so the word is taken from the line, and replies lack what is before the last colon. */
function bashScript(commands: readonly Command[]): string {
  return `# bash completion of tsvisor: source this file, or save it as
# ~/.local/share/bash-completion/completions/tsvisor
_tsvisor_words() {
  case $1 in
${optionCases(commands).join('\n')}
  esac
}

_tsvisor_reply() {
  local reply
  for reply in $(compgen -W "$1" -- "$full"); do
    [[ $reply == *[:=] ]] && compopt -o nospace 2> /dev/null
    COMPREPLY+=("\${reply#"\${full%"\${full##*:}"}"}")
  done
}

_tsvisor_files() {
  local reply
  compopt -o filenames 2> /dev/null
  while IFS= read -r reply; do COMPREPLY+=("$reply"); done < <(compgen -f -- "\${full##*:}")
}

_tsvisor_functions() {
  _tsvisor_reply "$(cd /sys/bus/pci/devices 2> /dev/null && echo *:*)"
}

_tsvisor_device() {
  [[ $full == *,* ]] || return
  local before=\${full%,*} words word list=
  case \${full%%,*} in
${deviceBranches((options) => `words=${deviceOptions(options)}`).join('\n')}
  esac
  for word in $words; do list+=" $before,$word"; done
  _tsvisor_reply "$list"
}

_tsvisor() {
  local line=\${COMP_LINE:0:COMP_POINT} command= option= word i
  local full=\${line##*[[:space:]=]}
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=\${COMP_WORDS[i]}
    case "\${command:+ $command} $word" in
      ${steps(commands)}) command=\${command:+$command }$word ;;
    esac
  done
  local before=\${line%"$full"}
  before=\${before%[[:space:]=]}
  option=\${before##*[[:space:]]}
  [[ $option == -* ]] || option=
  # An option's name, or an option whose value is the next word.
  if [[ $full == -* && $before != *= ]]; then
    _tsvisor_reply "$(_tsvisor_words "$command")"
    return
  fi
${dispatch(commands)}
  # The path of unix:PATH, file:PATH and the like.
  [[ \${#COMPREPLY[@]} -eq 0 && $full == *:* ]] && _tsvisor_files
}

complete -F _tsvisor tsvisor
`;
}

function zshScript(commands: readonly Command[]): string {
  return `#compdef tsvisor
# zsh completion of tsvisor: save this as _tsvisor in a folder of $fpath
_tsvisor_words() {
  case $1 in
${optionCases(commands).join('\n')}
  esac
}

_tsvisor_reply() {
  local reply
  for reply in \${=1}; do
    if [[ $reply == *[:=] ]]; then compadd -S '' -- $reply; else compadd -- $reply; fi
  done
}

_tsvisor_files() {
  compset -P '*:'
  _files
}

_tsvisor_functions() {
  compadd -- /sys/bus/pci/devices/*:*(N:t)
}

_tsvisor_device() {
  [[ $PREFIX == *,* ]] || return
  local address=\${PREFIX%%,*} words
  compset -P '*,'
  case $address in
${deviceBranches((options) => `words=${deviceOptions(options)}`).join('\n')}
  esac
  _tsvisor_reply "$words"
}

_tsvisor() {
  local command= option= word i
  for ((i = 2; i < CURRENT; i++)); do
    word=\${words[i]}
    case "\${command:+ $command} $word" in
      ${steps(commands)}) command=\${command:+$command }$word ;;
    esac
  done
  if [[ $PREFIX == --*=* ]]; then
    option=\${PREFIX%%=*}
    compset -P '*='
  elif [[ $PREFIX == -* ]]; then
    _tsvisor_reply "$(_tsvisor_words "$command")"
    return
  else
    option=\${words[CURRENT-1]}
    [[ $option == -* ]] || option=
  fi
${dispatch(commands)}
  # The path of unix:PATH, file:PATH and the like.
  if (( compstate[nmatches] == 0 )) && [[ $PREFIX == *:* ]]; then _tsvisor_files; fi
}

if [[ $funcstack[1] == _tsvisor ]]; then _tsvisor "$@"; else compdef _tsvisor tsvisor; fi
`;
}

/** What fits beside a word: longer text ends before its list of values, or its second thought. */
function described(text: string): string {
  const [first = text] = text.length > MOST_DESCRIBED ? text.split(/: |; | \(/) : [text];
  return first.replaceAll(/['\\]/g, '\\$&');
}
const MOST_DESCRIBED = 60;

const FISH_HEAD = `# fish completion of tsvisor: save this as ~/.config/fish/completions/tsvisor.fish
# The word at the cursor without the option that it is the value of.
function __tsvisor_value
    string replace -r -- '^--[^=]*=' '' (commandline -ct)
end

# The path of unix:PATH, file:PATH and the like.
function __tsvisor_path
    set -l value (__tsvisor_value)
    string match -q -- '*:*' $value; or return
    set -l head (string replace -r -- ':.*$' ':' $value)
    for path in (__fish_complete_path (string replace -r -- '^[^:]*:' '' $value))
        echo $head$path
    end
end

function __tsvisor_functions
    command ls /sys/bus/pci/devices 2> /dev/null
end
`;

/** An address of a device, and after commas its options. */
const fishDevice = () => `
function __tsvisor_device
    set -l value (__tsvisor_value)
    if not string match -q -- '*,*' $value
        __tsvisor_functions
        return
    end
    set -l words
    switch $value
${deviceCases().join('\n')}
    end
    for word in $words
        echo (string replace -r -- '[^,]*$' '' $value)$word
    end
end
`;

const deviceCases = (): string[] => {
  const line = (pattern: string, options: readonly string[]) =>
    `        case '${pattern}'\n            set words ${optionsOf(options).join(' ')}`;
  const other = DEVICES.find(({ names }) => names.length === 0)?.options ?? [];
  return [
    ...DEVICES.flatMap(({ names, options }) =>
      names.map((name) => line(`${name}${name.endsWith(':') ? '*' : ''},*`, options)),
    ),
    line('*', other),
  ];
};

function fishScript(commands: readonly Command[]): string {
  const lines = [FISH_HEAD, fishDevice(), 'complete -c tsvisor -f'];
  const seen = (name: string) =>
    name
      .split(' ')
      .map((word) => `__fish_seen_subcommand_from ${word}`)
      .join('; and ');
  const add = (condition: string, rest: string) =>
    lines.push(`complete -c tsvisor -n '${condition}' ${rest}`);
  const first = '__fish_use_subcommand';
  const names = commands.map(({ name }) => name);
  for (const { name, brief } of commands) add(first, `-a ${name} -d '${described(brief)}'`);
  add(first, "-a help -d 'print the help of a command'");
  add(first, "-l help -s h -d 'print the commands'");
  add(first, "-l version -s V -d 'print the version'");
  add(
    `__fish_seen_subcommand_from help; and not __fish_seen_subcommand_from ${names.join(' ')}`,
    `-a '${names.join(' ')}'`,
  );
  for (const command of flat(commands)) {
    const condition = seen(command.name);
    for (const each of command.commands ?? [])
      add(
        `${condition}; and not __fish_seen_subcommand_from ${inner(command.commands).join(' ')}`,
        `-a ${lastWord(each)} -d '${described(each.brief)}'`,
      );
    const source = sourceOf(command.argument ?? '', command.words);
    if (command.commands === undefined && command.argument !== undefined) {
      if (source.hasFiles) add(condition, '-F');
      const words = fishWords(source);
      if (words !== '') add(condition, words);
    }
    for (const { name, short, value, words, help } of command.options) {
      const heads = `${short === undefined ? '' : `-s ${short} `}-l ${name} -d '${described(help.join(' '))}'`;
      if (value === undefined) add(condition, heads);
      else {
        const of = sourceOf(value, words);
        add(condition, `${heads} -r ${of.hasFiles ? '-F' : '-f'} ${fishWords(of)}`.trimEnd());
      }
    }
  }
  return `${lines.join('\n')}\n`;
}

function fishWords({ words, hasFunctions, hasDeviceOptions }: Source): string {
  const all = [
    ...words,
    ...(hasDeviceOptions ? ['(__tsvisor_device)'] : hasFunctions ? ['(__tsvisor_functions)'] : []),
    ...(words.some((word) => word.endsWith(':')) ? ['(__tsvisor_path)'] : []),
  ];
  return all.length === 0 ? '' : `-a '${all.join(' ')}'`;
}
