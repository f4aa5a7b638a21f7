import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { unknownOption } from '../../vfio/option-problem.js';
import { type InputKindName, KIND_NAMES } from './kinds.js';

const isKind = (text: string): text is InputKindName => (KIND_NAMES as readonly string[]).includes(text);

/** Parses `type=keyboard|tablet|mouse`. @throws SysError EINVAL with a hint that lists all problems */
export function parseOptions(options: Readonly<Record<string, string>>, target: string): InputKindName {
  const { type = 'keyboard', ...others } = options;
  const problems = Object.keys(others).map((name) => unknownOption(name, ['type']));
  if (isKind(type) && problems.length === 0) return type;
  if (!isKind(type)) problems.push(`type: ${type} is none of ${KIND_NAMES.join(', ')}`);
  throw new SysError({ call: 'mdev create', target, errno: errno.EINVAL, hint: problems.join('; ') });
}
