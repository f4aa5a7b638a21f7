/** Where a program can be mutated: small faults that a test should notice. */
import ts from 'typescript';

/** What a mutant changes. */
export type Kind =
  | 'condition'
  | 'boundary'
  | 'comparison'
  | 'logic'
  | 'arithmetic'
  | 'boolean'
  | 'number'
  | 'result'
  | 'statement'
  | 'optional';

/** A span of a source, and what stands there in the mutant. */
export interface Point {
  /** Path from the root. */
  readonly file: string;
  readonly kind: Kind;
  /** Offsets in the source: a whole expression or a whole statement. */
  readonly start: number;
  readonly end: number;
  /** Counts from 1. */
  readonly line: number;
  readonly from: string;
  readonly to: string;
  readonly isStatement: boolean;
}

const BOUNDARIES: Readonly<Record<string, string>> = { '<': '<=', '<=': '<', '>': '>=', '>=': '>' };
const OPPOSITES: Readonly<Record<string, string>> = {
  '<': '>=',
  '<=': '>',
  '>': '<=',
  '>=': '<',
  '===': '!==',
  '!==': '===',
};
const ARITHMETIC: Readonly<Record<string, string>> = {
  '+': '-',
  '-': '+',
  '*': '/',
  '/': '*',
  '%': '*',
  '**': '*',
  '<<': '>>',
  '>>': '<<',
  '>>>': '<<',
  '&': '|',
  '|': '&',
  '^': '&',
};
// A map: an object would have methods of its own, toString for one.
const METHODS: ReadonlyMap<string, string> = new Map([
  ['min', 'max'],
  ['max', 'min'],
  ['some', 'every'],
  ['every', 'some'],
  ['startsWith', 'endsWith'],
  ['endsWith', 'startsWith'],
]);

const isText = (node: ts.Node): boolean => ts.isStringLiteralLike(node) || ts.isTemplateExpression(node);

/** Functions whose calls only report text to people. */
const REPORTERS: ReadonlySet<string> = new Set(['note', '#note', 'noteMisuse', 'log', 'warn', 'step']);

/** A call for the sake of its text only, as a line of a log, or the name of a place where a scheduler may switch tasks. */
function isMessage(node: ts.Expression): boolean {
  if (ts.isYieldExpression(node)) return node.expression !== undefined && isText(node.expression);
  if (!ts.isCallExpression(node)) return false;
  const { expression: callee } = node;
  const name = ts.isPropertyAccessExpression(callee) ? callee.name.text : callee.getText();
  return REPORTERS.has(name) || (node.arguments.length > 0 && node.arguments.every(isText));
}

const isCondition = (node: ts.Node): boolean => {
  const { parent } = node;
  return (
    ((ts.isIfStatement(parent) || ts.isWhileStatement(parent) || ts.isDoStatement(parent)) &&
      parent.expression === node) ||
    ((ts.isConditionalExpression(parent) || ts.isForStatement(parent)) && parent.condition === node)
  );
};

/** The end of a chain `a?.b.c()`: only all of it can be replaced. */
const isWholeChain = (node: ts.Node): boolean =>
  ts.isOptionalChain(node) && !(ts.isOptionalChain(node.parent) && node.parent.expression === node);

/** What a result is replaced by: the least surprising values of its type. */
function constants(type: ts.Type, expression: ts.Expression): string[] {
  const is = (flags: ts.TypeFlags): boolean => (type.flags & flags) !== 0;
  if (isText(expression) || is(ts.TypeFlags.Void | ts.TypeFlags.Undefined | ts.TypeFlags.Never)) return [];
  if (
    is(ts.TypeFlags.BooleanLike) ||
    (type.isUnion() && type.types.every((one) => one.flags & ts.TypeFlags.BooleanLike))
  ) {
    return ['true', 'false'].filter((value) => value !== expression.getText());
  }
  if (is(ts.TypeFlags.NumberLike)) return expression.getText() === '0' ? [] : ['0'];
  if (is(ts.TypeFlags.BigIntLike)) return expression.getText() === '0n' ? [] : ['0n'];
  if (is(ts.TypeFlags.StringLike)) return ["''"];
  return ['undefined'];
}

/** All points of a source, in order. Types, strings, templates and what is inside them hold none. */
export function pointsOf(file: string, source: ts.SourceFile, checker: ts.TypeChecker): Point[] {
  const points: Point[] = [];

  const add = (kind: Kind, node: ts.Node, to: string, isStatement = false): void => {
    const start = node.getStart(source);
    const line = source.getLineAndCharacterOfPosition(start).line + 1;
    points.push({ file, kind, start, end: node.end, line, from: node.getText(source), to, isStatement });
  };

  const condition = (node: ts.Expression): void => {
    const { parent } = node;
    if (ts.isConditionalExpression(parent) && isText(parent.whenTrue) && isText(parent.whenFalse)) return;
    if (node.kind === ts.SyntaxKind.TrueKeyword || node.kind === ts.SyntaxKind.FalseKeyword) return;
    add('condition', node, 'false');
    // A loop without an end is only ever found by its time.
    if (ts.isIfStatement(parent) || ts.isConditionalExpression(parent)) add('condition', node, 'true');
  };

  const result = (node: ts.Expression): void => {
    for (const to of constants(checker.getTypeAtLocation(node), node)) {
      if (to !== node.getText(source)) add('result', node, to);
    }
  };

  const binary = (node: ts.BinaryExpression): void => {
    const operator = node.operatorToken.getText(source);
    const [left, right] = [node.left.getText(source), node.right.getText(source)];
    const boundary = BOUNDARIES[operator];
    const opposite = OPPOSITES[operator];
    const isNothing = /^(<<|>>>?)$/.test(operator) && /^0n?$/.test(right); // a shift by 0, either way
    const arithmetic = isNothing ? undefined : ARITHMETIC[operator];
    if (boundary !== undefined) add('boundary', node, `${left} ${boundary} ${right}`);
    if (opposite !== undefined && !isCondition(node)) add('comparison', node, `${left} ${opposite} ${right}`);
    if (operator === '&&') add('logic', node, `(${left}) || (${right})`);
    if (operator === '||') add('logic', node, `(${left}) && (${right})`);
    if (operator === '??' && !isText(node.right)) {
      add('logic', node, left);
      add('logic', node, right);
    }
    if (arithmetic !== undefined && !isText(node.left) && !isText(node.right)) {
      add('arithmetic', node, `${left} ${arithmetic} ${right}`);
    }
    const assigned = ARITHMETIC[operator.slice(0, -1)];
    if (operator.endsWith('=') && assigned !== undefined && !isText(node.right)) {
      add('arithmetic', node, `${left} ${assigned}= ${right}`);
    }
  };

  const statement = (node: ts.ExpressionStatement): void => {
    const { expression } = node;
    const isSuper =
      ts.isCallExpression(expression) && expression.expression.kind === ts.SyntaxKind.SuperKeyword;
    if (!isSuper && !isMessage(expression) && !isText(expression)) add('statement', node, '', true);
  };

  const expression = (node: ts.Node): void => {
    if (ts.isBinaryExpression(node)) binary(node);
    if (ts.isPrefixUnaryExpression(node)) {
      const operand = node.operand.getText(source);
      const isLiteral = ts.isNumericLiteral(node.operand) || ts.isBigIntLiteral(node.operand);
      const { operator } = node;
      if (operator === ts.SyntaxKind.ExclamationToken) add('logic', node, operand);
      if (operator === ts.SyntaxKind.TildeToken || (operator === ts.SyntaxKind.MinusToken && !isLiteral)) {
        add('arithmetic', node, operand);
      }
      if (operator === ts.SyntaxKind.PlusPlusToken) add('arithmetic', node, `--${operand}`);
      if (operator === ts.SyntaxKind.MinusMinusToken) add('arithmetic', node, `++${operand}`);
    }
    if (ts.isPostfixUnaryExpression(node) && !ts.isForStatement(node.parent)) {
      const isUp = node.operator === ts.SyntaxKind.PlusPlusToken;
      add('arithmetic', node, `${node.operand.getText(source)}${isUp ? '--' : '++'}`);
    }
    const isName = ts.isPropertyAssignment(node.parent) && node.parent.name === node;
    if (ts.isNumericLiteral(node) && !isName) {
      add('number', node, `${node.getText(source)} ${node.text !== '0' && node.pos % 2 === 0 ? '-' : '+'} 1`);
    }
    if (ts.isBigIntLiteral(node) && !isName) {
      add(
        'number',
        node,
        `${node.getText(source)} ${node.text !== '0n' && node.pos % 2 === 0 ? '-' : '+'} 1n`,
      );
    }
    if (node.kind === ts.SyntaxKind.TrueKeyword) add('boolean', node, 'false');
    if (node.kind === ts.SyntaxKind.FalseKeyword) add('boolean', node, 'true');
    if (isWholeChain(node)) {
      const without = node
        .getText(source)
        .replace(/\?\.(?=[[(])/g, '')
        .replaceAll('?.', '.');
      add('optional', node, without);
    }
    if (
      ts.isCallExpression(node) &&
      ts.isPropertyAccessExpression(node.expression) &&
      !ts.isOptionalChain(node)
    ) {
      const { name, expression: owner } = node.expression;
      const other = METHODS.get(name.text);
      const rest = source.text.slice(name.end, node.end);
      if (other !== undefined) add('logic', node, `${owner.getText(source)}.${other}${rest}`);
    }
  };

  const visit = (node: ts.Node): void => {
    if (ts.isTypeNode(node) || isText(node) || ts.isTaggedTemplateExpression(node)) return;
    if (ts.isImportDeclaration(node) || ts.isExportDeclaration(node) || ts.isDecorator(node)) return;
    if (ts.isInterfaceDeclaration(node) || ts.isTypeAliasDeclaration(node)) return;
    if (ts.isIfStatement(node) || ts.isWhileStatement(node) || ts.isDoStatement(node))
      condition(node.expression);
    if (ts.isConditionalExpression(node)) condition(node.condition);
    if (ts.isForStatement(node) && node.condition !== undefined) condition(node.condition);
    if (ts.isReturnStatement(node) && node.expression !== undefined) result(node.expression);
    if (ts.isArrowFunction(node) && !ts.isBlock(node.body)) result(node.body);
    if (ts.isExpressionStatement(node)) statement(node);
    if (ts.isThrowStatement(node) || ts.isBreakStatement(node) || ts.isContinueStatement(node)) {
      // The break that ends a case by falling into nothing changes nothing.
      add('statement', node, '', true);
    }
    if (ts.isReturnStatement(node) && node.expression === undefined) add('statement', node, '', true);
    expression(node);
    ts.forEachChild(node, visit);
  };
  ts.forEachChild(source, visit);
  return points;
}
