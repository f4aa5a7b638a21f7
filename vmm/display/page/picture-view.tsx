import { useEffect, useRef } from 'preact/hooks';
import { download } from './download.js';
import type { GuestInput } from './guest-input.js';
import type { Picture, Pictures } from './pictures.js';
import type { ScreenFit } from './screen-fit.js';

const ONE_SECOND_MS = 1000;

/** Of the last second: how many pictures came, and how long one took from the guest's drawing to here: the median. */
function rate(picture: Picture): string {
  const now = performance.now();
  picture.frames = picture.frames.filter(({ at }) => now - at < ONE_SECOND_MS);
  const latencies = picture.frames.flatMap(({ latencyMs }) => latencyMs ?? []).sort((a, b) => a - b);
  const median = latencies[latencies.length >> 1];
  const fps = `${picture.frames.length} fps`;
  return median === undefined ? fps : `${fps}, ≤ ${Math.ceil(median)} ms`;
}

interface PictureProps {
  readonly picture: Picture;
  readonly isLive: boolean;
  readonly input: GuestInput;
  /** Absent if the server has only pictures. */
  readonly fit: ScreenFit | undefined;
}

function PictureView({ picture, isLive, input, fit }: PictureProps) {
  const place = useRef<HTMLDivElement>(null);
  const { canvas, slot, name, text, hasPicture, largest } = picture;
  useEffect(() => place.current?.replaceChildren(canvas), [canvas]);
  useEffect(() => input.follow(canvas), [canvas, input]);
  const canFit = fit !== undefined && largest !== undefined;
  useEffect(
    () => (canFit && place.current ? fit.follow(picture, place.current) : undefined),
    [fit, picture, canFit],
  );
  canvas.hidden = !hasPicture;
  const takesInput = isLive && input.isThere;
  canvas.setAttribute('role', takesInput ? 'application' : 'img');
  if (takesInput) canvas.tabIndex = 0;
  else canvas.removeAttribute('tabindex');
  const save = () => canvas.toBlob((blob) => blob && download(blob, `tsvisor-${slot}.png`));
  return (
    <figure class={isLive && text === '' ? '' : 'still'} data-slot={slot}>
      <figcaption>
        <span>
          <code>{name}</code> {text === '' ? `${canvas.width} × ${canvas.height}` : text}
        </span>
        <span class="rate" title="Pictures in a second; time from the guest’s drawing to this page, at most">
          {isLive && text === '' ? rate(picture) : ''}
        </span>
        {canFit && (
          <button
            type="button"
            aria-pressed={fit.isOn(picture)}
            disabled={!isLive}
            onClick={() => fit.toggle(picture)}
            aria-label={`Fit ${name} to the window`}
          >
            Fit to window
          </button>
        )}
        <button type="button" disabled={!hasPicture} onClick={save} aria-label={`Save PNG of ${name}`}>
          Save PNG
        </button>
      </figcaption>
      <div class="place" ref={place} />
      {fit?.errorOf(picture) && (
        <p class="hint" role="alert">
          {fit.errorOf(picture)}
        </p>
      )}
      {takesInput && (
        <p class="hint">
          Keyboard and pointer are the guest’s while the picture has the focus; <kbd>Ctrl</kbd>+<kbd>Alt</kbd>
          +<kbd>G</kbd> leaves it. <span role="alert">{input.error}</span>
        </p>
      )}
    </figure>
  );
}

/** All displays, side by side. */
export function PicturesView(props: {
  readonly pictures: Pictures;
  readonly input: GuestInput;
  readonly fit: ScreenFit | undefined;
}) {
  const { pictures, input, fit } = props;
  if (pictures.list.length === 0) return null;
  const isLive = pictures.end === undefined && !pictures.isFrozen;
  return (
    <section aria-label="Pictures" class="pictures">
      {pictures.list.map((picture) => (
        <PictureView
          key={`${picture.slot} ${picture.name}`}
          picture={picture}
          isLive={isLive}
          input={input}
          fit={fit}
        />
      ))}
    </section>
  );
}
