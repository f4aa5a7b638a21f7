import { useEffect, useRef } from 'preact/hooks';

/** A line of a plot. */
export interface Series {
  readonly name: string;
  /** One value per sample; the last one is the newest. */
  readonly values: readonly number[];
}

/** Readable on light and on dark ground; lines that share a colour differ by their dashes. */
const COLOURS = ['#3b82f6', '#e0730d', '#16a34a', '#c026d3', '#dc2626', '#0891b2', '#a16207', '#7c3aed'];
const MARGIN = 18;

export const colourOf = (index: number): string => COLOURS[index % COLOURS.length] as string;
const dashOf = (index: number): number[] => (index < COLOURS.length ? [] : [4, 3]);

function draw(canvas: HTMLCanvasElement, series: readonly Series[], samples: number, unit: string): void {
  const context = canvas.getContext('2d');
  if (context === null) return;
  const { clientWidth: width, clientHeight: height } = canvas;
  const ratio = devicePixelRatio;
  Object.assign(canvas, { width: width * ratio, height: height * ratio }); // clears it, too
  context.scale(ratio, ratio);
  const style = getComputedStyle(canvas);
  const most = Math.max(1, ...series.flatMap(({ values }) => values));
  const x = (sample: number) => (sample / (samples - 1)) * width;
  const y = (value: number) => height - MARGIN - (value / most) * (height - 2 * MARGIN);
  context.font = `11px ${style.fontFamily}`;
  context.fillStyle = style.color;
  context.strokeStyle = style.getPropertyValue('--line');
  for (const value of [0, most]) {
    context.beginPath();
    context.moveTo(0, y(value));
    context.lineTo(width, y(value));
    context.stroke();
  }
  context.fillText(`${Math.round(most).toLocaleString('en')} ${unit}`, 2, MARGIN - 6);
  context.fillText(`${samples - 1} s ago`, 2, height - 4);
  for (const [i, { values }] of series.entries()) {
    context.strokeStyle = colourOf(i);
    context.setLineDash(dashOf(i));
    context.beginPath();
    for (const [at, value] of values.entries()) context.lineTo(x(samples - values.length + at), y(value));
    context.stroke();
  }
}

/** Lines over time, from the left to now. The numbers are in the table beside it. */
export function Plot(props: {
  readonly series: readonly Series[];
  readonly samples: number;
  readonly unit: string;
  readonly label: string;
}) {
  const { series, samples, unit, label } = props;
  const canvas = useRef<HTMLCanvasElement>(null);
  useEffect(() => {
    if (canvas.current !== null) draw(canvas.current, series, samples, unit);
  });
  return <canvas ref={canvas} class="plot" role="img" aria-label={label} />;
}
