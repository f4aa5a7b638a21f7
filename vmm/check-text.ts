import type { CheckReport, CheckResult, CheckVerdict } from '../vfio/host/check/index.js';

const VERDICT_COLUMN = 'warning'.length + 2;
const INDENT = ' '.repeat(2 + VERDICT_COLUMN);

/** A report for a person: a section for the host, each device and each group, a paragraph for each rule. */
export function checkText({ verdict, results }: CheckReport): string {
  const subjects = [...new Set(results.map(({ subject }) => subject))];
  const sections = subjects.map((subject) =>
    [subject, ...results.filter((result) => result.subject === subject).flatMap(ruleLines)].join('\n'),
  );
  return [...sections, conclusion(verdict, results)].join('\n\n');
}

function ruleLines({ rule, verdict, text, why, evidence, commands, advice }: CheckResult): string[] {
  return [
    `  ${verdict.padEnd(VERDICT_COLUMN)}${rule}: ${text}`,
    ...(why === undefined ? [] : [`${INDENT}why: ${why}`]),
    ...evidence.map(({ source, said }) => `${INDENT}${source}: ${said}`),
    ...(commands.length === 0
      ? []
      : [`${INDENT}fix, as root:`, ...commands.map((line) => `${INDENT}  ${line}`)]),
    ...(advice === undefined ? [] : [`${INDENT}${advice}`]),
  ];
}

const CONCLUSIONS: Readonly<Record<CheckReport['verdict'], string>> = {
  ok: 'they can be assigned',
  warning: 'they can be assigned, with the losses above',
  fails: 'they cannot be assigned as it is',
};

function conclusion(verdict: CheckReport['verdict'], results: readonly CheckResult[]): string {
  const count = (each: CheckVerdict) => results.filter((result) => result.verdict === each).length;
  const counts = (['fails', 'warning', 'unknown', 'ok'] as const)
    .filter((each) => count(each) > 0)
    .map((each) => `${count(each)} ${each}`);
  return `${CONCLUSIONS[verdict]}: ${counts.join(', ')}`;
}
