import { expected } from '../../sys/suggestion.js';

/** Options of passt with and without a value, by passt's own names. */
const VALUED = ['tcp-ports', 'udp-ports', 'address', 'netmask', 'gateway', 'interface', 'dns', 'mtu'];
const FLAGS = ['no-map-gw', 'ipv4-only', 'ipv6-only'];
/** passt's own default is so large that the packets do not fit into usual drivers' buffers. */
const DEFAULT_MTU = '1500';

/**
 * Parses the text after `passt:`: passt options without dashes, separated by commas or semicolons, such as
 * `tcp-ports=8080:80,tcp-ports=2222:22,no-map-gw`. Values are validated by passt itself.
 * @returns passt's arguments, or all problems in one text
 */
export function parsePasstOptions(text: string): readonly string[] | string {
  const problems: string[] = [];
  const args = text
    .split(/[,;]/)
    .filter((item) => item !== '')
    .map((item) => {
      const [, name = '', value] = /^([^=]*)(?:=(.*))?$/s.exec(item) ?? [];
      if (!VALUED.includes(name) && !FLAGS.includes(name))
        problems.push(
          `unknown option ${JSON.stringify(item)}${expected(name, [...VALUED, ...FLAGS], `${VALUED.join('=, ')}=, ${FLAGS.join(', ')}`)}`,
        );
      else if (VALUED.includes(name) && (value === undefined || value === ''))
        problems.push(`${name} takes a value: ${name}=...`);
      else if (FLAGS.includes(name) && value !== undefined) problems.push(`${name} takes no value`);
      return `--${item}`;
    });
  if (problems.length > 0) return problems.join('; ');
  const hasMtu = args.some((argument) => argument.startsWith('--mtu='));
  return hasMtu ? args : [...args, `--mtu=${DEFAULT_MTU}`];
}
